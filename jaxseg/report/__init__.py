"""What a run looks like: class colours, overlays, and one self-contained page of numbers, curves and images."""

from jaxseg.report.gallery import Example, select
from jaxseg.report.overlay import colorize, overlay
from jaxseg.report.report import write_report

__all__ = ["Example", "colorize", "overlay", "select", "write_report"]
