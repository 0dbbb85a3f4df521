package engine

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/podsnap/podsnap/nodeagent/runtime"
)

const (
	recordKey = "podsnap.dev/record" // extension of a containerd container
	kindLabel = "podsnap.dev/kind"   // of containers and snapshots, for queries
	gcRoot    = "containerd.io/gc.root"
)

// record is what a containerd container carries: one of the two.
type record struct {
	Sandbox   *runtime.Sandbox     `json:"sandbox,omitempty"`
	Spec      *runtime.SandboxSpec `json:"spec,omitempty"` // of the sandbox
	Container *runtime.Container   `json:"container,omitempty"`
}

func (r record) any() (map[string]typeurl.Any, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record: %w", err)
	}
	return map[string]typeurl.Any{recordKey: &anypb.Any{TypeUrl: recordKey, Value: b}}, nil
}

func parseRecord(c containers.Container) (r record, err error) {
	ext, ok := c.Extensions[recordKey]
	if !ok {
		return r, fmt.Errorf("container %s has no record", c.ID)
	}
	if err := json.Unmarshal(ext.GetValue(), &r); err != nil {
		return r, fmt.Errorf("record of container %s: %w", c.ID, err)
	}
	if (r.Sandbox == nil || r.Spec == nil) && r.Container == nil {
		return r, fmt.Errorf("record of container %s is empty", c.ID)
	}
	return r, nil
}

// labels are for people: `ctr -n podsnap containers ls`.
func labels(kind string, s runtime.SandboxSpec, more ...string) map[string]string {
	l := map[string]string{
		kindLabel:             kind,
		"podsnap.dev/pod":     s.Namespace + "/" + s.Name,
		"podsnap.dev/pod-uid": string(s.UID),
	}
	for i := 0; i+1 < len(more); i += 2 {
		l[more[i]] = more[i+1]
	}
	return l
}
