#!/bin/sh
# One round of a schedule: train on all that is in ./texts now, and publish what the gate accepts as the next version of
# `notes`. Servers of ./models move to it by themselves. Options are handed on to rhapsode-train.
set -u

rhapsode-train run text-files --name notes --models ./models \
    --set data.sources.0.path=texts --set base.model="${BASE:-openai-community/gpt2}" "$@"
code=$?

case $code in
    0) ;;                                                                    # published, or nothing was new
    4) echo "retrain: the gate refused it; the version before goes on" ;;    # nobody need get up at night
    75) echo "retrain: interrupted; the next round goes on from there" ;;
    *) exit $code ;;
esac
