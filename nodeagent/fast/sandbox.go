package fast

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/podsnap/podsnap/nodeagent/network"
	"github.com/podsnap/podsnap/nodeagent/runtime"
)

// sandbox is what the runtime knows of a sandbox. Runtime.mu guards info and gone.
type sandbox struct {
	life sync.RWMutex // shared while a container is started, exclusive for removal
	spec runtime.SandboxSpec
	slot *slot // nil: it was lost, and the sandbox is dead

	info runtime.Sandbox
	gone bool // being removed
}

// sandboxRecord is a sandbox on disk.
type sandboxRecord struct {
	Sandbox runtime.Sandbox     `json:"sandbox"`
	Spec    runtime.SandboxSpec `json:"spec"`
	Slot    string              `json:"slot"`
	OOMs    int64               `json:"ooms,omitempty"`
	Spent   float64             `json:"spent,omitempty"`
}

// StartSandbox implements runtime.Runtime. It takes a parked sandbox.
func (r *Runtime) StartSandbox(ctx context.Context, s runtime.SandboxSpec) (runtime.Sandbox, error) {
	begin := time.Now()
	if s.HostNetwork || s.NoNetwork || s.Segment != "" || s.HostPID || s.SharePID {
		return runtime.Sandbox{}, errors.New("start sandbox: the fast runtime has no pods in the host's namespaces or on a segment, nor any whose containers share one of processes")
	}
	if err := r.ready(ctx); err != nil {
		return runtime.Sandbox{}, err
	}
	sl, pooled, err := r.pool.Take(ctx)
	r.metrics.took(pooled)
	if err != nil {
		return runtime.Sandbox{}, fmt.Errorf("start sandbox of pod %s/%s: %w", s.Namespace, s.Name, err)
	}
	id := newID()
	sb := &sandbox{spec: s, slot: sl, info: runtime.Sandbox{
		ID: id, Dir: r.sandboxDir(id), UID: s.UID, Namespace: s.Namespace, Name: s.Name, IP: sl.ip.String(), IP6: network.Text(r.c.Network.Second(sl.ip)), CreatedAt: begin, Labels: s.Labels,
	}}
	r.mu.Lock()
	sb.info.Pid = r.launcher
	closed := r.closed
	if !closed {
		r.sandboxes[sb.info.ID] = sb
	}
	r.mu.Unlock()
	if closed {
		err = errors.New("the fast runtime is shutting down")
	} else {
		err = r.saveSandbox(sb)
	}
	if err != nil {
		return runtime.Sandbox{}, errors.Join(fmt.Errorf("start sandbox of pod %s/%s: %w", s.Namespace, s.Name, err), r.removeSandbox(ctx, sb))
	}
	r.metrics.started("sandbox", begin)
	return sb.info, nil
}

func (r *Runtime) saveSandbox(sb *sandbox) error {
	dir := r.sandboxDir(sb.info.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("make sandbox directory: %w", err)
	}
	return save(filepath.Join(dir, "sandbox.json"), sandboxRecord{Sandbox: sb.info, Spec: sb.spec, Slot: sb.slot.id, OOMs: sb.slot.ooms, Spent: sb.slot.spent})
}

// save writes a record whole or not at all.
func save(path string, v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(path+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("keep record: %w", err)
	}
	return nil
}

// RemoveSandbox implements runtime.Runtime. What the sandbox was made of goes
// back to the pool in the background.
func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	sb := r.sandbox(id)
	if sb == nil {
		return nil
	}
	sb.life.Lock()
	defer sb.life.Unlock()
	if r.sandbox(id) == nil {
		return nil // removed meanwhile
	}
	if err := r.removeSandbox(ctx, sb); err != nil {
		return fmt.Errorf("remove sandbox of pod %s/%s: %w", sb.info.Namespace, sb.info.Name, err)
	}
	return nil
}

func (r *Runtime) removeSandbox(ctx context.Context, sb *sandbox) error {
	id := sb.info.ID
	r.mu.Lock()
	sb.gone = true
	var members []string
	for _, c := range r.containers {
		if c.info.Sandbox == id {
			members = append(members, c.info.ID)
		}
	}
	r.mu.Unlock()
	for _, c := range members {
		if err := r.RemoveContainer(ctx, c); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(r.sandboxDir(id)); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.sandboxes, id)
	sl := sb.slot
	sb.slot = nil
	r.mu.Unlock()
	if sl != nil {
		r.pool.Give(sl, !sl.dirty)
	}
	return nil
}

func (r *Runtime) sandbox(id string) *sandbox {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sandboxes[id]
}

// Owns tells whether a sandbox or container is of this runtime.
func (r *Runtime) Owns(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sandboxes[id] != nil || r.containers[id] != nil
}

// List implements runtime.Runtime.
func (r *Runtime) List(ctx context.Context) ([]runtime.Sandbox, error) {
	if err := r.ready(ctx); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]runtime.Sandbox, 0, len(r.sandboxes))
	at := map[string]int{}
	for id, sb := range r.sandboxes {
		if sb.gone {
			continue
		}
		at[id] = len(out)
		out = append(out, sb.info)
	}
	for _, c := range r.containers {
		if i, ok := at[c.info.Sandbox]; ok && !c.starting() {
			out[i].Containers = append(out[i].Containers, c.info)
		}
	}
	for _, s := range out {
		slices.SortFunc(s.Containers, func(a, b runtime.Container) int {
			if a.Attempt != b.Attempt {
				return a.Attempt - b.Attempt
			}
			return a.StartedAt.Compare(b.StartedAt)
		})
	}
	return out, nil
}

func notFound(kind, id string) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, id)
}
