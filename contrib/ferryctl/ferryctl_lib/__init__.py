# SPDX-License-Identifier: BSD-3-Clause
"""ferryctl: the command-line client of ferryd."""

VERSION = "0.2.0"
