package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"golang.org/x/sys/unix"
)

// groupRoot is where the control groups are mounted.
const groupRoot = "/sys/fs/cgroup"

// Groups are the control groups of some hosts: one for all, and one for each of
// them below it, in every hierarchy.
type Groups struct {
	Tree cgroup.Tree
}

// NewGroups names the group of all hosts. Remove removes it.
func NewGroups(name string) (*Groups, error) {
	t, err := cgroup.Open(groupRoot, "/"+name)
	return &Groups{t}, err
}

func (g *Groups) of(host string) string { return filepath.Join(g.Tree.Parent, host) }

// make makes a host's groups and lists their directories.
func (g *Groups) make(host string) (dirs []string, err error) {
	group := g.of(host)
	if g.Tree.V2 {
		if err := g.Tree.Delegate(group); err != nil {
			return nil, err
		}
	}
	for _, h := range g.Tree.Controllers() {
		dir := filepath.Join(h, group)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make control group: %w", err)
		}
		if err := inheritSets(h, group); err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// inheritSets gives version 1 groups the processors and memory of those above:
// they have none at first, and take no process then.
func inheritSets(hierarchy, group string) error {
	at := hierarchy
	for name := range strings.SplitSeq(strings.Trim(group, "/"), "/") {
		up := at
		at = filepath.Join(at, name)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			have, err := os.ReadFile(filepath.Join(at, file))
			if err != nil || strings.TrimSpace(string(have)) != "" {
				continue // another hierarchy, or there already
			}
			b, err := os.ReadFile(filepath.Join(up, file))
			if err == nil && strings.TrimSpace(string(b)) != "" {
				err = os.WriteFile(filepath.Join(at, file), b, 0o644)
			}
			if err != nil {
				return fmt.Errorf("set up control group: %w", err)
			}
		}
	}
	return nil
}

// freeze stops or lets go on all processes of a host, and waits until it is so.
func (g *Groups) freeze(ctx context.Context, host string, frozen bool) error {
	file, want := g.Tree.File("freezer", g.of(host), "freezer.state"), map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
	if g.Tree.V2 {
		file, want = g.Tree.File("", g.of(host), "cgroup.events"), map[bool]string{true: "frozen 1", false: "frozen 0"}[frozen]
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		// Again and again: version 1 does not see by itself that a process which
		// waits for the child that it has by vfork is as good as frozen.
		if err := g.Tree.Freeze(g.of(host), frozen); err != nil {
			return err
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if slices.Contains(strings.Split(strings.TrimSpace(string(b)), "\n"), want) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not say %q: %w", file, want, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// killAll sends SIGKILL to everything in a host's groups and thaws what is
// frozen, which version 1 does not let die otherwise.
func (g *Groups) killAll(host string) {
	all := g.within(host)
	for _, dir := range all {
		b, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for s := range strings.FieldsSeq(string(b)) {
			var pid int
			if _, err := fmt.Sscan(s, &pid); err == nil && pid > 1 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	for _, dir := range all {
		if _, err := os.Stat(filepath.Join(dir, "freezer.state")); err == nil {
			_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0o644)
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.freeze")); err == nil {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0o644)
		}
	}
}

// within lists the directories of a host's group and of all below, in every
// hierarchy.
func (g *Groups) within(host string) (out []string) {
	for _, h := range g.Tree.Controllers() {
		_ = filepath.WalkDir(filepath.Join(h, g.of(host)), func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, p)
			}
			return nil // one that goes away meanwhile is as we want it
		})
	}
	return out
}

// remove removes a host's groups, in which nothing runs any more.
func (g *Groups) remove(host string) error { return g.Tree.Remove(g.of(host)) }

// Remove removes everything of all hosts.
func (g *Groups) Remove() error {
	g.killAll("")
	return g.Tree.Remove(g.Tree.Parent)
}

// mountPoint is a line of mountinfo.
type mountPoint struct{ at, kind, options string }

func mountPoints() ([]mountPoint, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []mountPoint
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if len(b) < 5 || len(a) < 3 {
			return nil, fmt.Errorf("mountinfo has the line %q", lines.Text())
		}
		out = append(out, mountPoint{strings.ReplaceAll(b[4], `\040`, " "), a[0], a[2]})
	}
	return out, lines.Err()
}

// groupTrees is how the control groups are mounted.
type groupTrees struct {
	mounts []mountPoint
	links  map[string]string // such as cpu → cpu,cpuacct
}

// cgroupMounts looks how this machine has its control groups.
func cgroupMounts() (g groupTrees, err error) {
	all, err := mountPoints()
	if err != nil {
		return g, err
	}
	for _, m := range all {
		if (m.kind == "cgroup" || m.kind == "cgroup2") && (m.at == groupRoot || filepath.Dir(m.at) == groupRoot) {
			g.mounts = append(g.mounts, m)
		}
	}
	if len(g.mounts) == 0 {
		return g, errors.New("no control groups are mounted at " + groupRoot)
	}
	g.links = map[string]string{}
	entries, err := os.ReadDir(groupRoot)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(groupRoot, e.Name())); err == nil {
			g.links[e.Name()] = to
		}
	}
	return g, err
}

// mountGroups mounts them in the same way in this namespace, where their roots
// are the host's groups.
func mountGroups(g groupTrees) error {
	if len(g.mounts) > 1 || g.mounts[0].at != groupRoot {
		if err := unix.Mount("tmpfs", groupRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", groupRoot, err)
		}
	}
	for _, m := range g.mounts {
		if m.at != groupRoot {
			if err := os.Mkdir(m.at, 0o755); err != nil {
				return err
			}
		}
		data := ""
		if m.kind == "cgroup" {
			data = hierarchy(m.options)
		}
		if err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, data); err != nil {
			return fmt.Errorf("mount %s (%s): %w", m.at, data, err)
		}
	}
	for name, to := range g.links {
		if err := os.Symlink(to, filepath.Join(groupRoot, name)); err != nil {
			return err
		}
	}
	return nil
}

// hierarchy is the part of a version 1 mount's options that says which hierarchy
// it is.
func hierarchy(options string) string {
	var out []string
	for o := range strings.SplitSeq(options, ",") {
		switch {
		case strings.HasPrefix(o, "name="):
			out = append(out, "none", o)
		case o == "rw", o == "ro", o == "xattr", o == "clone_children", o == "noprefix", strings.Contains(o, "="):
		default:
			out = append(out, o)
		}
	}
	return strings.Join(out, ",")
}
