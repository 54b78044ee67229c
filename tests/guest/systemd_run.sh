# What happens to the unit in a guest with systemd as init (tests/guest/systemd.py). It does and notes, in
# /tmp/results; tests/guest/test_systemd.py judges. Every wait has an end; time is the guest's.
R=/tmp/results
U=ebpf-supervisor

files() { find / -xdev -path /tmp -prune -o -path /proc -prune -o -path /var/log -prune -o -print | sort; }
show() { systemctl show -P "$1" $U; }
now_s() { cut -d' ' -f1 /proc/uptime; }
# till SECONDS COMMAND…: until it succeeds; says how long that took.
till() {
    left=$1; shift; since=$(now_s)
    while ! eval "$*" >/dev/null 2>&1; do
        left=$((left - 1)); [ $left -gt 0 ] || { echo "never: $*"; return 1; }
        sleep 1
    done
    echo "$since $(now_s)" | awk '{ printf "%.1f\n", $2 - $1 }'
}
another() { pid=$(show MainPID); [ "$pid" != 0 ] && [ "$pid" != "$1" ] && [ "$(show ActiveState)" = active ]; }
settled() { ebpfctl status | grep -q RUNNING && ! ebpfctl status | grep -q STARTING; }
# What has been noted so far comes back also from a guest that is ended at its deadline.
save() { tar -C $R -cf /dev/vdc .; sync; }
drop_in() { mkdir -p /run/systemd/system/$U.service.d; cat > "/run/systemd/system/$U.service.d/test.conf"; systemctl daemon-reload; }

groupadd netdata && useradd -g netdata -M netdata
files > $R/files-before

# ---- install, look
cp -a /guest/install/. /
systemd-sysusers /usr/local/lib/sysusers.d/$U.conf
systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/$U.conf
systemctl daemon-reload
systemd-analyze verify /usr/local/lib/systemd/system/$U.service > $R/verify 2>&1
systemd-analyze security --no-pager $U > $R/security 2>&1

# ---- two programs, which an emulated processor loads in seconds
save
# An emulated processor that others use too is no reason for a watchdog to bite.
mkdir -p /run/systemd/system/$U.service.d
cat > /run/systemd/system/$U.service.d/patient.conf <<END
[Service]
TimeoutStartSec=900
TimeoutStopSec=100
WatchdogSec=60
END
# What two lines of Python take here, in place of some 0.05 s.
since=$(now_s); python3 -c 'import json'; echo "$since $(now_s)" | awk '{ print $2 - $1 }' > $R/python
drop_in <<END
[Service]
ExecStart=
ExecStart=/usr/local/lib/$U/bin/ebpf-supervisor serve --config-dir /etc/$U --only fd,process
END
systemctl start $U; echo $? > $R/start
systemctl status --no-pager --lines=0 $U > $R/status-ready 2>&1
till 200 settled

ebpfctl status > $R/ctl-two 2>&1
journalctl -u $U --no-pager -o cat > $R/journal-two
save

# an agent's user reads the stream
mkfifo /tmp/stdin; sleep 1000 > /tmp/stdin & holder=$!
setpriv --reuid netdata --regid netdata --clear-groups /usr/libexec/netdata/plugins.d/$U.plugin 1 \
    < /tmp/stdin > $R/relay 2> $R/relay-errors & relay=$!
till 30 grep -q ^END $R/relay > $R/relay-first

# processes in services, slices, scopes and containers, and what is counted for them
python3 /guest/cgroups.py /guest/places.json $R/relay > $R/cgroups 2> $R/cgroups-errors
save

# a worker is killed for want of memory
main=$(show MainPID)
worker=$(ebpfctl --json status | python3 -c 'import json, sys; print(next(p["pid"] for p in json.load(sys.stdin)["programs"] if p["name"] == "fd"))')
echo 1000 > /proc/$worker/oom_score_adj
echo f > /proc/sysrq-trigger
till 60 "! kill -0 $worker" > $R/oom-killed
till 60 "ebpfctl status fd | grep -q RUNNING" > $R/oom-again
[ "$(show MainPID)" = "$main" ] && show ActiveState > $R/oom-unit
journalctl -k --no-pager -o cat | grep -i "out of memory" > $R/oom-kernel

save
# the supervisor stops, and is killed
main=$(show MainPID); kill -STOP $main
till 300 another $main > $R/watchdog
till 60 settled
journalctl -u $U --no-pager -o cat | grep -i watchdog > $R/watchdog-journal
main=$(show MainPID); systemctl kill -s KILL --kill-whom=main $U
till 300 another $main > $R/killed
till 60 settled
cat /sys/fs/cgroup/system.slice/$U.service/cgroup.procs | wc -l > $R/killed-processes
before=$(grep -c ^END $R/relay)
till 60 "[ \$(grep -c ^END $R/relay) -gt $before ]" > $R/relay-again
kill -0 $relay && echo alive > $R/relay-alive
kill $holder; wait $relay; echo $? > $R/relay-exit
show NRestarts > $R/restarts
systemctl stop $U

save
# one that always fails is given up
drop_in <<END
[Service]
ExecStart=
ExecStart=/bin/false
END
systemctl start $U
till 120 "[ \$(show Result) = start-limit-hit ] || [ \$(show ActiveState) = failed ]"
journalctl -u $U --no-pager -o cat | tail -5 > $R/limit
show Result > $R/limit-result
rm /run/systemd/system/$U.service.d/test.conf; systemctl daemon-reload; systemctl reset-failed $U

# ---- every program
systemctl start $U
till 900 settled > $R/settled
sleep 12 # a status line is told every 10 s
systemctl status --no-pager --lines=0 $U > $R/status 2>&1
ebpfctl status > $R/ctl 2>&1
ebpfctl status -v > $R/ctl-v 2>&1
since=$(now_s); systemctl stop $U; echo "$since $(now_s)" | awk '{ print $2 - $1 }' > $R/stop
show Result > $R/stop-result
ls -A /run/$U > $R/stop-left 2>/dev/null

save

# ---- uninstall, while it runs
rm -r /run/systemd/system/$U.service.d; systemctl daemon-reload
systemctl start $U
make -s -C /guest/checkout uninstall PLUGINSDIR=/usr/libexec/netdata/plugins.d > $R/uninstall 2>&1; echo $? >> $R/uninstall
systemctl is-active $U > $R/uninstall-active 2>&1
ps -eo args | grep '[e]bpf-supervisor' > $R/uninstall-processes
getent passwd $U > $R/uninstall-user
files > $R/files-after
diff $R/files-before $R/files-after > $R/uninstall-diff
rm $R/files-before $R/files-after
true
