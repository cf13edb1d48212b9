"""Studies: algorithms x data x seeds x options, one file a run, and what they say together. Imports evaluation and below."""
