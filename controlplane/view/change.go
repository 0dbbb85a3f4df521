package view

import (
	"maps"
	"time"

	"github.com/podsnap/podsnap/api"
)

// How long controllers let changes gather before they look. A number of
// replicas that somebody asks for is carried out at once; what follows from it
// comes in many small steps, each of which would have everybody look.
const (
	Batch = 5 * time.Millisecond   // pods that have come, changed or gone
	Calm  = 100 * time.Millisecond // a status, of which most are one's own writing
)

// StatusOnly reports whether at most the status differs between two versions of
// an object; not for a new one.
func StatusOnly[T interface {
	api.Object
	comparable
}](old, now T) bool {
	var none T
	return old != none && now != none && old.GetUID() == now.GetUID() && old.GetGeneration() != 0 && old.GetGeneration() == now.GetGeneration() &&
		(old.GetDeletionTimestamp() == nil) == (now.GetDeletionTimestamp() == nil) &&
		maps.Equal(old.GetLabels(), now.GetLabels()) && maps.Equal(old.GetAnnotations(), now.GetAnnotations()) &&
		len(old.GetOwnerReferences()) == len(now.GetOwnerReferences()) && len(old.GetFinalizers()) == len(now.GetFinalizers())
}
