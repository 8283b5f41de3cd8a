"""``warmswap compile``: a model repository made ready for the machine that will serve it.

    build    the whole: read a repository, write the compiled one beside its name, rename
    source   what there is to compile, and what must stay as it was exported
    cache    compiled graphs by key, shared by every repository and start of this machine
    worker   one graph in a process of its own: ONNX Runtime optimises and writes it, then both are compared
    stamp    what a compiled repository holds; lets a start trust files that did not change
    target   the machine that a graph is compiled for

Only ``worker`` and ``parity`` import numpy and onnxruntime: a start that finds everything compiled pays for neither.
"""
