# shellcheck shell=bash disable=SC2034
# Copy this to settings.sh and edit the copy (elsewhere: name it with --settings). pod.sh sources it.
# Keep keys and passwords out of it: those that the run needs go into a file named by SECRETS.

# ---- the slice
PROJECT=my-project
ZONE=us-central1-a
NAME=lfpc                     # of the queued resource, and of its TPU VM
ACCELERATOR=v5litepod-16      # of `gcloud compute tpus accelerator-types list`
SLICES=1                      # several are one run; then --mesh.data is a multiple of them
RUNTIME=v2-alpha-tpuv5-lite   # of `gcloud compute tpus versions list`
TIER=spot                     # spot, reserved or on-demand
NETWORK=""                    # empty: the project's default
SUBNETWORK=""
SERVICE_ACCOUNT=""            # empty: the project's default; it must read and write the bucket
WAIT_MINUTES=720              # in the queue; then the request is taken back

# ---- storage: `pod.sh setup` mounts the bucket on every worker as ~/bucket
BUCKET=my-bucket              # without gs://; empty: local disks only (one host, and not spot)

# ---- the run, started in the folder of the code: the bucket is ../bucket from there
CONFIG=stage1.py:3b
RUN=stage1_3b                 # results in ~/bucket/runs/RUN, or ~/runs/RUN without a bucket
# Compiled programs in the bucket make a new slice start quickly; then overrides, such as
# what fits the slice (docs/scaling.md; this is 3B on a v5e:4x4)
ARGS=(--cache ../bucket/compiled --model.path ../bucket/weights/3b --data.train ../bucket/data/gap
  --mesh.tensor 2 --rollout.slots 32)
SECRETS=""                    # a local file of NAME=value lines, copied to the workers, never shown

# ---- patience
TRIES=4                       # of a call that may fail for a moment
PAUSE_SECONDS=15              # after a failed call; doubles with every try
POLL_SECONDS=60               # between looks at the slice and the run
GRACE_SECONDS=300             # for a run to save when it is told to stop
MAX_RESTARTS=20               # by `pod.sh keep`; a run that is steady again starts over
KEEP_ON_FAILURE=no            # yes: `up` and `keep` leave the slice there (and paid for) on failure
