"""Measures Tidegate beside other servers: ``python -m benchmarks``.

``workloads`` says what is measured, ``drivers`` how each server is started and spoken to, ``traffic``, ``idle`` and
``handshakes`` measure, ``suite`` lets the servers take turns, ``reporting`` writes ``docs/performance.md``.
``compression.py``, ``layers.py``, ``observers.py`` and ``reading.py`` stand alone and measure parts of Tidegate, not servers.
"""
