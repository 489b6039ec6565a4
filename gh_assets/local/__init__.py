"""This machine: the home folder, locks, memory, the network, temporary files, threads, waits and progress."""
