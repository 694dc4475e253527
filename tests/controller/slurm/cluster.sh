#!/usr/bin/env bash
# A Slurm of two nodes on this one machine, in a folder of its own: munged, slurmctld, two slurmd.
#
#   cluster.sh start FOLDER     what is to be exported for Slurm's commands is in FOLDER/env
#   cluster.sh stop FOLDER      ends every process of it
#   cluster.sh check            whether it can be run at all
#
# Exit 77 with the reason on standard error where it cannot.
#
# Nothing of the machine's own Slurm or munge is touched: sockets, keys, spool folders and ports are the folder's. Needs
# root, since slurmd starts steps for others, and Debian's slurmd, which was built to run several on one machine.
set -euo pipefail

skip() { echo "$1" >&2; exit 77; }

check() {
  local program
  for program in munged slurmctld slurmd srun squeue scontrol scancel; do
    command -v "$program" >/dev/null || skip "no $program here (slurm-wlm and munge are not installed)"
  done
  [ "$(id -u)" = 0 ] || skip "a Slurm of one's own needs root"
}

# Below the ports that the kernel gives away.
free_port() {
  local port
  for _ in $(seq 100); do
    port=$((10000 + RANDOM % 20000))
    (: </dev/tcp/127.0.0.1/$port) 2>/dev/null || { echo "$port"; return; }
  done
  skip "no free port"
}

start() {
  local folder
  folder=$(realpath "$1")
  local port_ctl port_1 port_2 host
  port_ctl=$(free_port); port_1=$(free_port); port_2=$(free_port)
  host=$(hostname -s)
  mkdir -p "$folder"/{state,spool1,spool2,run}
  chmod 755 "$folder"
  head -c 128 /dev/urandom > "$folder/munge.key"
  chmod 400 "$folder/munge.key"
  munged --force --key-file="$folder/munge.key" --socket="$folder/run/munge.sock" --pid-file="$folder/run/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/run/munge.seed" --num-threads=1
  cat > "$folder/slurm.conf" <<CONF
ClusterName=throwaway
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port_ctl
AuthType=auth/munge
AuthInfo=socket=$folder/run/munge.sock
CryptoType=crypto/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/run/slurmctld.pid
SlurmdPidFile=$folder/run/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
InactiveLimit=0
MinJobAge=60
KillWait=2
MessageTimeout=10
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port_1 CPUs=1
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$port_2 CPUs=1
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF=$folder/slurm.conf
  echo "SLURM_CONF=$SLURM_CONF" > "$folder/env"
  slurmctld -f "$SLURM_CONF"
  local node
  for node in node1 node2; do slurmd -f "$SLURM_CONF" -N "$node"; done
  local tries
  for tries in $(seq 200); do
    [ "$(sinfo -h -o '%D %t' 2>/dev/null)" != "2 idle" ] || return 0
    sleep 0.1
  done
  stop "$folder"
  skip "a Slurm cannot be run here: $(sinfo 2>&1 | tail -n 1); $(tail -qn 1 "$folder"/*.log | tr '\n' ';')"
}

# Nothing of it is kept, so nothing is ended politely but the jobs, whose processes are others'.
stop() {
  local folder name pid
  folder=$(realpath "$1")
  export SLURM_CONF=$folder/slurm.conf
  if [ -n "$(timeout 5 squeue --noheader 2>/dev/null)" ]; then
    timeout 5 scancel --user=root 2>/dev/null || true
    sleep 1
  fi
  for name in slurmd-node1 slurmd-node2 slurmctld munged; do
    pid=$(cat "$folder/run/$name.pid" 2>/dev/null) || continue
    kill -9 "$pid" 2>/dev/null || true
  done
}

case "${1:-}" in
  check) check ;;
  start) check; start "$2" ;;
  stop) stop "$2" ;;
  *) echo "usage: cluster.sh check | start FOLDER | stop FOLDER" >&2; exit 2 ;;
esac
