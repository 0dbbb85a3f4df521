package engine

import (
	"fmt"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// profile is Docker's default system call filter. It depends on the
// capabilities only, so that there are few of them.
func (e *Engine) profile(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	key := strings.Join(s.Process.Capabilities.Bounding, ",")
	e.mu.Lock()
	defer e.mu.Unlock()
	if p, ok := e.profiles[key]; ok {
		return p, nil
	}
	p, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("make seccomp profile: %w", err)
	}
	e.profiles[key] = p
	return p, nil
}
