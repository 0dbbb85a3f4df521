package api

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Objects is declared state: the first seam. All methods are safe for
// concurrent use. Objects go in and out by reference: what comes out is shared
// and immutable, what goes in must not be changed afterwards.
//
// Errors are StatusErrors: NotFound, AlreadyExists, Conflict (stale
// resourceVersion, or a UID precondition), Invalid (with causes), BadRequest,
// Gone/Expired (a watch or continue token older than what is kept), Forbidden
// (create in a terminating or missing namespace answers NotFound or Forbidden
// as Kubernetes does), ServiceUnavailable or Timeout when the store does not
// answer: then it is unknown whether a write took place.
type Objects interface {
	// Get answers with the newest object this client could have written or
	// seen: a Get after a successful write through the same Objects sees it.
	Get(ctx context.Context, r *Resource, namespace, name string) (Object, error)

	// List answers with all objects that match, ordered by namespace and name,
	// as of one revision, with the same freshness as Get.
	List(ctx context.Context, r *Resource, o ListOptions) (List, error)

	// Create stores a new object. Name may be empty when GenerateName is set.
	// UID, creationTimestamp, generation and resourceVersion are filled.
	Create(ctx context.Context, obj Object) (Object, error)

	// Update replaces the object. With a resourceVersion it is a compare and
	// swap (Conflict when stale), with an empty one the last write wins.
	// Where the kind has a status subresource, a plain Update leaves .status
	// as it was, and one with Subresource "status" changes .status (and
	// metadata.labels, annotations and finalizers are left as they were).
	// Removing the last finalizer of a deleted object ends it.
	Update(ctx context.Context, obj Object, o UpdateOptions) (Object, error)

	// Patch applies one to the newest version, retrying its own conflicts.
	Patch(ctx context.Context, r *Resource, namespace, name string, p Patch) (Object, error)

	// Delete removes the object, or, when it has finalizers or (a pod that is
	// bound to a node) a grace period, sets deletionTimestamp and leaves it.
	// It answers with the last state.
	Delete(ctx context.Context, r *Resource, namespace, name string, o DeleteOptions) (Object, error)

	// Watch streams changes. With resourceVersion N every event after N is
	// delivered, once, in order, with no gap; when N is no longer kept the
	// error is Expired. With "" or "0" the stream begins with an Added for
	// each object, then one Bookmark with InitialEventsEnd, then changes.
	// A reader that is too slow is cut off; it may resume from its last event.
	Watch(ctx context.Context, r *Resource, o WatchOptions) (Watch, error)
}

// ListOptions select. The zero value selects everything of the kind.
type ListOptions struct {
	Namespace string          // "" is all
	Labels    labels.Selector // nil is all
	Fields    fields.Selector // nil is all; see FieldSet for what is supported
	Limit     int64           // 0 is no limit
	Continue  string
}

// List is a page of objects.
type List struct {
	Items           []Object
	ResourceVersion string
	Continue        string // not empty when there is more
	Remaining       int64  // how much more, if Continue is not empty
}

// UpdateOptions refine an update.
type UpdateOptions struct {
	Subresource string // "" or "status"

	// ManagedFields makes an update of the status take the object's
	// managedFields as well: for who keeps them (see controlplane/fieldmanager).
	ManagedFields bool
}

// Patch is a change in one of the wire's forms.
type Patch struct {
	Type        types.PatchType // JSON, merge or strategic merge
	Data        []byte
	Subresource string
}

// DeleteOptions refine a deletion.
type DeleteOptions struct {
	GracePeriodSeconds *int64 // nil is the object's own
	UID                types.UID
	ResourceVersion    string
	Propagation        metav1.DeletionPropagation // "" is the kind's default: Background
}

// WatchOptions select what is watched.
type WatchOptions struct {
	Namespace       string
	Labels          labels.Selector
	Fields          fields.Selector
	ResourceVersion string

	// View is what the watcher sees of the objects; nil is all of them. It need not
	// be told of changes of the rest, and its resourceVersion moves on all the same,
	// by bookmarks. An implementation may tell of them, and tells of whole objects:
	// who shows them to somebody else trims them.
	View *View
}

// View is a part of the objects of a kind. All who see the same part have the same
// View: what is decided or made for one of them serves all. Its functions are pure.
type View struct {
	// Show answers with the part, as another object.
	Show func(Object) Object
	// Same tells whether two states of one object differ in nothing that Show
	// answers with, but for the resourceVersion; nil: they are taken to differ.
	Same func(old, now Object) bool
}

// Hides tells whether who sees the view sees nothing of a change.
func (v *View) Hides(old, now Object) bool {
	return v != nil && v.Same != nil && old != nil && now != nil && v.Same(old, now)
}

// EventType is a change's kind.
type EventType string

// The kinds of change.
const (
	Added    EventType = "ADDED"
	Modified EventType = "MODIFIED"
	Deleted  EventType = "DELETED"
	Bookmark EventType = "BOOKMARK" // Object holds only a resourceVersion
)

// Event is one change. For a selective watch an object that starts or stops
// matching is Added or Deleted.
type Event struct {
	Type             EventType
	Object           Object
	InitialEventsEnd bool // on the one Bookmark that ends the initial state
}

// Watch is a running watch.
type Watch interface {
	// Events is closed when the watch ends: by Stop, by its context, by a
	// fault or because the reader was too slow.
	Events() <-chan Event
	// Err says why, after Events was closed; nil after Stop.
	Err() error
	// Stop ends the watch; it may be called more than once.
	Stop()
}
