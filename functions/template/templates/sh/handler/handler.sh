#!/bin/sh
# Is run for every request: standard input is its body, standard output the answer.
set -eu
name=$(cat)
printf 'Hello, %s!\n' "$name"
