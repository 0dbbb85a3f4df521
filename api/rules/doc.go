// Package rules holds the Kubernetes semantics of creating, updating, patching
// and deleting objects, shared by every implementation of api.Objects. It is
// pure: it reads no clock and no random source (Facts carries both), does no
// I/O and changes none of its arguments.
//
// What is particular to one kind's spec (defaults, validation, admission) is not
// here; an implementation passes it in as an Admit hook.
package rules

import (
	"context"
	"time"

	"github.com/podsnap/podsnap/api"
	"k8s.io/apimachinery/pkg/types"
)

// Facts are what a decision needs to know and can't know purely.
type Facts struct {
	Now    time.Time // becomes creationTimestamp and deletionTimestamp, in whole seconds
	UID    types.UID // a fresh one, for a create
	Suffix string    // random lower-case letters and digits, for generateName
}

// Op is what is asked for.
type Op string

// The operations that Admit sees.
const (
	OpCreate Op = "CREATE"
	OpUpdate Op = "UPDATE"
)

// Admit fills defaults into next and judges it. next is a private copy that the
// hook may change; old is nil on a create and immutable. subresource is "" or
// "status". The hook answers with a StatusError to refuse. It may be called
// several times for one request, when somebody else's write came between.
type Admit func(ctx context.Context, op Op, r *api.Resource, old, next api.Object, subresource string) error

// Verdict is what is to be written.
type Verdict struct {
	Object    api.Object // the new state; for Remove the last state
	Unchanged bool       // write nothing: Object is the old one
	Remove    bool       // remove the object
}
