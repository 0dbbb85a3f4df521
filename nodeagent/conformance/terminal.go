package conformance

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// terminal runs the probe in a terminal, beside the container's process: it is
// confined as without one, and has nothing but the terminal besides.
func (r *rig) terminal(c aCase, o observed) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	code, err := r.Runtime.Exec(ctx, o.container.ID, runtime.Exec{Command: []string{"/bin/probe", "facts", "process"}, TTY: true, Stdout: &out})
	if err != nil || code != 0 {
		r.t.Fatalf("exec in a terminal: code %d, %v: %s", code, err, out.String())
	}
	f, err := parse(strings.ReplaceAll(out.String(), "\r\n", "\n"))
	if err != nil {
		r.t.Fatal(err)
	}
	for _, fd := range []string{"fd.0", "fd.1", "fd.2"} {
		if !strings.HasPrefix(f[fd], "/dev/pts/") {
			r.t.Errorf("%s is %q, want the terminal", fd, f[fd])
		}
	}
	if f["controlling terminal"] != "ok" || f["tty_nr"] == "0" {
		r.t.Errorf("the controlling terminal is %q, number %s", f["controlling terminal"], f["tty_nr"])
	}
	if !strings.Contains(f["env"], `"TERM=xterm"`) {
		r.t.Errorf("the environment is %s, want it to name the terminal", f["env"])
	}
	with, without, compared := f.normal(), o.exec.normal(), 0
	for _, k := range slices.Sorted(maps.Keys(with)) {
		v, told := without[k]
		if !told || ofTerminal(k) || c.want.hostNamespaces && ofHost(k) {
			continue
		}
		compared++
		if v != with[k] {
			r.t.Errorf("%s: %q in a terminal, %q without", k, with[k], v)
		}
	}
	if compared < 50 {
		r.t.Errorf("only %d facts were compared", compared)
	}
}

// ofTerminal says which facts follow from the terminal.
func ofTerminal(k string) bool {
	return strings.HasPrefix(k, "fd.") || slices.Contains([]string{"env", "args", "tty_nr", "tpgid", "controlling terminal"}, k)
}

// ofHost says which facts change on a host from one moment to the next.
func ofHost(k string) bool { return k == "processes" || k == "session" }
