"""An HTML report of runs in one self-contained file; `analysis.serve` serves the same page live."""
