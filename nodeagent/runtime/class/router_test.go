package class

import (
	"context"
	"slices"
	"testing"

	"github.com/podsnap/podsnap/nodeagent/runtime"
	"github.com/podsnap/podsnap/nodeagent/runtime/fake"
)

// owner is a fake that knows what is its own, as the fast runtime does.
type owner struct {
	*fake.Runtime
	ids map[string]bool
}

func (o *owner) Owns(id string) bool                            { return o.ids[id] }
func (o *owner) Listening(context.Context, string, int32) error { return nil }
func (o *owner) Freeze(context.Context, string) error           { return nil }
func (o *owner) Thaw(context.Context, string) error             { return nil }
func (o *owner) Frozen(context.Context, string) (bool, error)   { return false, nil }

func (o *owner) StartSandbox(ctx context.Context, s runtime.SandboxSpec) (runtime.Sandbox, error) {
	sb, err := o.Runtime.StartSandbox(ctx, s)
	o.ids[sb.ID] = true
	return sb, err
}

func TestRouter(t *testing.T) {
	fast, other := &owner{fake.New(), map[string]bool{}}, fake.New()
	r := New(fast, other)
	for range 10 { // both number alike: have them use other numbers
		sb, err := other.StartSandbox(t.Context(), runtime.SandboxSpec{UID: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if err := other.RemoveSandbox(t.Context(), sb.ID); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	names := func(l interface {
		List(context.Context) ([]runtime.Sandbox, error)
	},
	) (out []string) {
		t.Helper()
		all, err := l.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			out = append(out, s.Name)
		}
		slices.Sort(out)
		return out
	}
	exits := r.Events(ctx)
	var ids []string
	for name, class := range map[string]runtime.Class{"f": runtime.Fast, "r": runtime.Runc, "none": ""} {
		sb, err := r.StartSandbox(ctx, runtime.SandboxSpec{UID: "u", Name: name, Class: class})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, sb.ID)
		err = r.Freeze(ctx, sb.ID)
		if (err == nil) != (class == runtime.Fast) {
			t.Errorf("freeze %s: got %v", name, err)
		}
	}
	if got := names(fast); !slices.Equal(got, []string{"f"}) {
		t.Errorf("the fast runtime has %v", got)
	}
	if got := names(other); !slices.Equal(got, []string{"none", "r"}) {
		t.Errorf("the other has %v", got)
	}
	if got := names(r); !slices.Equal(got, []string{"f", "none", "r"}) {
		t.Errorf("both have %v", got)
	}
	for _, id := range ids {
		if err := r.RemoveSandbox(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(r); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	cancel()
	for range exits { // closed when both are
	}
}
