"""Studies: algorithms x data x seeds x options, each run one file of truth, and what they say together. Below the shell."""
