"""What every room stands on, and nothing of any room: extras, files, saved states, a thread that works ahead."""
