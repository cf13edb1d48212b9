"""How an update is run: eagerly, compiled or captured, in which precision. Imports nothing of the package but the ground."""
