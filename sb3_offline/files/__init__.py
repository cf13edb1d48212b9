"""Files that are written whole and read without running code: archives, checksums, encodings. Imports the ground alone."""
