"""Reports: class colours, overlays, and one self-contained page of figures, curves and images."""

from jaxseg.report.gallery import select
from jaxseg.report.overlay import colorize, overlay
from jaxseg.report.report import write_report

__all__ = ["colorize", "overlay", "select", "write_report"]
