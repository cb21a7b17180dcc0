"""The bundle in the function platforms' own runtimes, each started as its platform starts it, against the simulator."""
