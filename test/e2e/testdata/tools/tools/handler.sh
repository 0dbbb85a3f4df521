#!/bin/sh
# Says what it got.
echo "tools run"
cat
