"""The app: an index in the browser. Needs neither torch nor a projection engine to show one."""
