"""A run: its loop's surroundings, exact resume, health, random streams, schedules, logs. Imports buffers and below."""
