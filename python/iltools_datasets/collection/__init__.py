"""Expert roll-outs, recorded: what the student will see, what the expert did, and the file that others train from."""
