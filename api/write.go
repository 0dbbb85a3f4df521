package api

// Write is an object to be stored as it is by one who has decided already, or
// to be removed, on condition that the stored object is at revision Expect (0:
// it is not there).
type Write struct {
	Object Object // the writer's no more
	Expect int64
	Remove bool
}

// Written is what became of a Write.
type Written struct {
	Revision int64 // at which it is stored or was removed
	Err      error // Conflict when the stored object is at another revision
}
