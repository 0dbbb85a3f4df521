package builder

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
)

// shellEngine puts a script beside busybox and the watchdog.
type shellEngine struct {
	busybox  string
	watchdog func() ([]byte, error)
}

const script = "handler.sh"

func (s *shellEngine) Build(ctx context.Context, j Job) (Content, error) {
	files, err := collect(j.Dir, j.Copy)
	if err != nil {
		return Content{}, err
	}
	command, program, err := s.find()
	if err != nil {
		return Content{}, err
	}
	if f := find(files, script); f == nil && j.Function.FProcess == "" {
		return Content{}, &SourceError{Summary: fmt.Sprintf("%s has no %s: write one, or set fprocess", j.Dir, script)}
	} else if f != nil {
		if err := checkScript(ctx, command, j.Dir, f); err != nil {
			return Content{}, err
		}
	}
	base, err := busyboxLayer(ctx, command, program)
	if err != nil {
		return Content{}, err
	}
	dog, err := s.watchdog()
	if err != nil {
		return Content{}, err
	}
	say(j.Progress, "%s: %d files", j.Function.Name, len(files))
	handler := Layer{Note: "handler", Files: []File{{Path: "/function", Mode: 0o755, Dir: true}}}
	for _, f := range files {
		mode := int64(0o644)
		if f.executable {
			mode = 0o755
		}
		handler.Files = append(handler.Files, File{Path: "/function/" + f.path, Mode: mode, Content: f.content})
	}
	return Content{
		Layers: []Layer{
			base,
			{Note: "watchdog", Files: []File{{Path: "/usr/bin/fwatchdog", Mode: 0o755, Content: dog}}},
			handler,
		},
		Config: configure([]string{"/usr/bin/fwatchdog"}, "/function", "fprocess="+j.Template.FProcess),
	}, nil
}

// find reads a busybox that needs nothing else.
func (s *shellEngine) find() (command string, program []byte, err error) {
	places := []string{"/bin/busybox", "/usr/bin/busybox"}
	if s.busybox != "" {
		places = []string{s.busybox}
	}
	for _, p := range places {
		b, err := os.ReadFile(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if isStatic(b) {
			return p, b, nil
		}
	}
	return "", nil, fmt.Errorf("a static busybox, in %s: %w: apt-get install busybox-static", strings.Join(places, " or "), errNoTool)
}

// isStatic: a program without an interpreter segment needs no loader.
func isStatic(program []byte) bool {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}

// busyboxLayer is a root with every tool of busybox.
func busyboxLayer(ctx context.Context, command string, program []byte) (Layer, error) {
	out, err := exec.CommandContext(ctx, command, "--list").Output()
	if err != nil {
		return Layer{}, fmt.Errorf("%s --list: %w", command, err)
	}
	l := Layer{Note: "busybox", Files: append(rootFiles(), File{Path: "/bin/busybox", Mode: 0o755, Content: program})}
	for tool := range strings.FieldsSeq(string(out)) {
		if tool != "busybox" && path.Base(tool) == tool {
			l.Files = append(l.Files, File{Path: "/bin/" + tool, Mode: 0o777, Link: "busybox"})
		}
	}
	return l, nil
}

// checkScript lets the shell read the script without running it.
func checkScript(ctx context.Context, command, dir string, f *sourceFile) error {
	cmd := exec.CommandContext(ctx, command, "sh", "-n", "/dev/stdin")
	cmd.Stdin = bytes.NewReader(f.content)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &exit):
		return &SourceError{Summary: "sh -n", Output: strings.ReplaceAll(string(out), "/dev/stdin", dir+"/"+f.path)}
	}
	return err
}
