package spec

import (
	"fmt"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Profiles keeps system call filters. They depend on the capabilities only, so
// that there are few of them. The zero value is empty.
type Profiles struct {
	mu    sync.Mutex
	known map[string]*specs.LinuxSeccomp
}

// Of is Docker's default filter for what the container may do. It must not be
// changed.
func (p *Profiles) Of(s *specs.Spec) (*specs.LinuxSeccomp, error) {
	key := strings.Join(s.Process.Capabilities.Bounding, ",")
	p.mu.Lock()
	defer p.mu.Unlock()
	if known, ok := p.known[key]; ok {
		return known, nil
	}
	made, err := seccomp.GetDefaultProfile(s)
	if err != nil {
		return nil, fmt.Errorf("make seccomp profile: %w", err)
	}
	if p.known == nil {
		p.known = map[string]*specs.LinuxSeccomp{}
	}
	p.known[key] = made
	return made, nil
}
