package host

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Running is a process of a host, as this machine sees it.
type Running struct {
	Pid, Parent int // on this machine
	Args        []string
	Program     string // what it runs, "" when that can't be told
}

// Kill sends it a signal.
func (r Running) Kill(s unix.Signal) error { return unix.Kill(r.Pid, s) }

// Processes lists all processes of a host, those in its containers too: all that
// are in its control groups.
func (h *Host) Processes() ([]Running, error) {
	if _, err := h.on(); err != nil {
		return nil, err
	}
	seen := map[int]bool{}
	var out []Running
	for _, dir := range h.Groups.within(h.Name) {
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for s := range strings.FieldsSeq(string(b)) {
			pid, err := strconv.Atoi(s)
			if err != nil || seen[pid] {
				continue
			}
			seen[pid] = true
			if r, ok := look(pid); ok {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

func look(pid int) (Running, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Running{}, false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	if len(f) < 2 || f[0] == "Z" {
		return Running{}, false
	}
	r := Running{Pid: pid}
	r.Parent, _ = strconv.Atoi(f[1])
	cmd, _ := os.ReadFile(dir + "/cmdline")
	r.Args = strings.Split(strings.TrimRight(string(cmd), "\x00"), "\x00")
	exe, _ := os.Readlink(dir + "/exe")
	r.Program = filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	return r, true
}

// Find finds the one process of a host that fits.
func (h *Host) Find(what string, fits func(Running) bool) (Running, error) {
	all, err := h.Processes()
	if err != nil {
		return Running{}, err
	}
	var found []Running
	for _, r := range all {
		if fits(r) {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		return Running{}, fmt.Errorf("%s: %d processes are %s: %v", h.Name, len(found), what, found)
	}
	return found[0], nil
}
