#!/bin/bash
# What one writes for Spark in a job of several nodes, with the same steps as SparkLauncher: a master, a worker on each
# node, a secret, free ports, the sizes of the job, the payload when all workers are there, and nothing left.
# usage: PYTHON PAYLOAD
set -u
python=$1 payload=$2
shared=$PWD/by-hand.$SLURM_JOB_ID
(umask 077 && mkdir "$shared" "$shared/conf" && od -An -N 32 -tx1 /dev/urandom | tr -d ' \n' >"$shared/secret")
SPARK_HOME=$("$python" -c 'import importlib.util as u, os; print(os.path.dirname(u.find_spec("pyspark").origin))')
export SPARK_HOME SPARK_CONF_DIR=$shared/conf PYSPARK_PYTHON=$python SPARK_DAEMON_MEMORY=256m shared
export SPARK_DAEMON_JAVA_OPTS='-XX:+UseSerialGC -XX:TieredStopAtLevel=1'
SPARK_LOCAL_IP=$(getent ahostsv4 "$SLURMD_NODENAME" | awk '{ print $1; exit }')
# Java 17 does not understand this job's control group.
export SPARK_LOCAL_IP JAVA_TOOL_OPTIONS='-XX:-UseContainerSupport -XX:-UsePerfData'
cat >"$shared/conf/spark-defaults.conf" <<CONF
spark.authenticate true
spark.authenticate.secret $(<"$shared/secret")
spark.network.crypto.enabled true
spark.master.rest.enabled false
spark.ui.reverseProxy true
CONF

cat >"$shared/node.sh" <<'NODE'
tmp=$(mktemp -d /tmp/hand.XXXXXX)
address=$(getent ahostsv4 "$SLURMD_NODENAME" | awk '{ print $1; exit }')
export SPARK_LOCAL_IP=$address SPARK_LOCAL_DIRS=$tmp TMPDIR=$tmp
class=org.apache.spark.deploy
if [ "$SLURM_NODEID" = 0 ]; then
    "$SPARK_HOME/bin/spark-class" $class.master.Master --host "$address" --port 0 --webui-port 0 >"$shared/master" 2>&1 </dev/null &
    until url=$(sed -n 's/.*Starting Spark master at \(spark:[^ ]*\).*/\1/p' "$shared/master") && [ -n "$url" ]; do sleep 0.1; done
    echo "$url" >"$shared/new" && mv "$shared/new" "$shared/url"
fi
until [ -s "$shared/url" ]; do sleep 0.1; done
"$SPARK_HOME/bin/spark-class" $class.worker.Worker --host "$address" --port 0 --webui-port 0 --work-dir "$tmp/work" \
    --cores "$SLURM_CPUS_PER_TASK" --memory 800m "$(<"$shared/url")" </dev/null &
read -r _
kill -TERM $(jobs -p)
wait
rm -rf "$tmp"
NODE
exec {lifeline}> >(exec srun --overlap --no-kill --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" --mpi=none \
    bash "$shared/node.sh" >"$shared/out" 2>&1)
step=$!
until [ -s "$shared/master" ] && [ "$(grep -c 'Registering worker' "$shared/master")" = "$SLURM_JOB_NUM_NODES" ]; do sleep 0.1; done
tmp=$(mktemp -d /tmp/hand.XXXXXX)
cat >>"$shared/conf/spark-defaults.conf" <<CONF
spark.master $(<"$shared/url")
spark.ui.port 0
spark.driver.host $SPARK_LOCAL_IP
spark.driver.bindAddress $SPARK_LOCAL_IP
spark.driver.memory 512m
spark.executor.memory 800m
spark.executor.cores $SLURM_CPUS_PER_TASK
CONF
TMPDIR=$tmp SPARK_LOCAL_DIRS=$tmp "$python" "$payload"
exec {lifeline}>&-
wait "$step"
rm -rf "$shared" "$tmp"
