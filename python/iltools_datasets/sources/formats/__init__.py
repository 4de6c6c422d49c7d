"""One file per raw format, and the two helpers that several of them share."""
