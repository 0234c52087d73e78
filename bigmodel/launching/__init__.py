"""Starting a run on machines that are not this one."""
