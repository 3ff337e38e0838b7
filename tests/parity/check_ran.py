"""Fails unless a test passed in the pytest report (JUnit XML) named on the command line: skipping is not passing."""

import sys
from xml.etree import ElementTree

cases = ElementTree.parse(sys.argv[1]).iter("testcase")
passed = sum(not len(case) for case in cases)
print(f"{passed} parity tests passed")
sys.exit(0 if passed else "no parity test ran")
