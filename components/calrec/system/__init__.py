"""What a process is run by: the CPUs and memory it may use, the terminal, the version of its code."""
