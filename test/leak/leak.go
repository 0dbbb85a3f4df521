// Package leak tells what a platform has left in the kernel: the difference of
// two snapshots of namespaces, devices, mounts, cgroups, rules and processes.
package leak

import (
	"bufio"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is what is in the kernel at one moment, one line a thing.
type Snapshot map[string]bool

// Take looks at everything that a platform could leave behind. Things are
// named by what stays the same between two looks.
func Take() (Snapshot, error) {
	s := Snapshot{}
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range ifs {
		s["link "+i.Name] = true
	}
	if err := s.lines("/proc/self/mountinfo", func(f []string) string {
		if len(f) > 4 {
			return "mount " + f[4]
		}
		return ""
	}); err != nil {
		return nil, err
	}
	if err := s.lines("/proc/net/route", func(f []string) string {
		if len(f) > 2 && f[0] != "Iface" {
			return "route " + f[0] + " " + f[1]
		}
		return ""
	}); err != nil {
		return nil, err
	}
	s.cgroups()
	s.processes()
	s.tables()
	return s, nil
}

// Since lists what is in s and was not in before, sorted.
func (s Snapshot) Since(before Snapshot) []string {
	var out []string
	for k := range s {
		if !before[k] {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func (s Snapshot) lines(file string, name func(fields []string) string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if n := name(strings.Fields(sc.Text())); n != "" {
			s[n] = true
		}
	}
	return sc.Err()
}

func (s Snapshot) cgroups() {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			s["cgroup "+p] = true
		}
		return nil // one that goes away while we look is no leak
	})
}

// processes are those of a platform: by the name of their program, so that a
// shell that comes and goes meanwhile does not count.
func (s Snapshot) processes() {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		exe, err := os.Readlink(filepath.Join(d, "exe"))
		if err != nil {
			continue
		}
		cmd, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		words := strings.Split(string(cmd), "\x00")
		base := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
		for _, p := range []string{"containerd", "faas", "runc", "pause", "watchdog", "handler", "memfd:podsnap-launcher", "memfd:podsnap-sockets"} {
			if strings.HasPrefix(base, p) || base == "memfd:runc_cloned" {
				s[fmt.Sprintf("process %s %s %s", filepath.Base(d), base, strings.Join(words[:min(3, len(words))], " "))] = true
				break
			}
		}
	}
}

// tables needs the nft command; without it the rules are not looked at.
func (s Snapshot) tables() {
	out, err := exec.Command("nft", "list", "tables").Output()
	if err != nil {
		return
	}
	for l := range strings.Lines(string(out)) {
		s["nft "+strings.TrimSpace(l)] = true
	}
}

// Count is how many things of each kind there are, by the first word of their
// line.
func (s Snapshot) Count() map[string]int {
	out := map[string]int{}
	for k := range s {
		kind, _, _ := strings.Cut(k, " ")
		out[kind]++
	}
	return out
}

// Process is what a process holds that could grow without end.
type Process struct {
	FDs, Threads int
	RSS          int // kB
}

// Look looks at a process. Of one that is gone it sees nothing.
func Look(pid int) Process {
	var p Process
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err == nil {
		p.FDs = len(fds)
	}
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for l := range strings.Lines(string(raw)) {
		switch f := strings.Fields(l); {
		case len(f) < 2:
		case f[0] == "VmRSS:":
			p.RSS, _ = strconv.Atoi(f[1])
		case f[0] == "Threads:":
			p.Threads, _ = strconv.Atoi(f[1])
		}
	}
	return p
}
