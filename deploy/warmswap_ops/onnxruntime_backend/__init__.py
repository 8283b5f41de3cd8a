"""The ``onnxruntime`` backend for a Triton that lacks NVIDIA's: the same ``config.pbtxt`` runs on both.

It is a Python-based backend: ``backends/onnxruntime/model.py`` imports ``TritonPythonModel`` from ``model``, once per
model instance, in a process of its own. Every import counts against the start time, so there is numpy, onnxruntime and
nothing else. Only ``model`` needs Triton; ``warmswap compile`` uses the rest. What it reads, refuses and answers
follows onnxruntime_backend@00fd3e8, ``src/onnxruntime.cc``.
"""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime >= 1.29 reads it while it is imported
