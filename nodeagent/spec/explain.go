package spec

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Explain names the usual faults of a container that did not start.
func Explain(name string, p *specs.Process, err error) error {
	text := err.Error()
	if !strings.HasPrefix(text, "exec: ") {
		return fmt.Errorf("container %q: %w", name, err)
	}
	switch {
	case strings.Contains(text, "executable file not found in $PATH"), strings.Contains(text, "no such file or directory"):
		return fmt.Errorf("container %q: command %q is not in the image, or the interpreter it names is not: %w", name, p.Args[0], err)
	case strings.Contains(text, "permission denied"):
		return fmt.Errorf("container %q: command %q is not executable for user %d: %w", name, p.Args[0], p.User.UID, err)
	case strings.Contains(text, "is a directory"):
		return fmt.Errorf("container %q: command %q is a directory: %w", name, p.Args[0], err)
	}
	return fmt.Errorf("container %q: %w", name, err)
}
