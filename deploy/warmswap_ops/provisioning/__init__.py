"""A model repository on the disk of a node: staged once, verified, switched to atomically.

DIR/<digest>/        one repository, named after its content
DIR/current          symbolic link to the one to serve
DIR/.sources/<sha>   which digest an archive of that sha256 became
DIR/.lock            held by the process that works; the kernel drops it with the process
DIR/.staging-*       what a process works on; whoever holds the lock next removes it
"""
