package store

import (
	"testing"
)

// What the feed has taken may be answered with by then, whatever the feed does
// with it next.
func TestTakenIsWhole(t *testing.T) {
	var o own
	w := &written{value: o.mark([]byte(`{"a":1}`)), obj: configMap("x", "1")}
	o.add("k", w)
	if got := o.take([]byte("k"), []byte(`{"a":1}`), 6); got != nil {
		t.Fatalf("took %v, which somebody else wrote", got)
	}
	if got := o.take([]byte("k"), w.value, 7); got != w.obj {
		t.Fatalf("took %v, want what was written", got)
	}
	if got := w.obj.GetResourceVersion(); got != "7" {
		t.Errorf("the object is at %q, want 7", got)
	}
	if got := o.take([]byte("k"), w.value, 8); got != nil {
		t.Errorf("took %v once more", got)
	}
	if rev := o.remove("k", w); rev != 7 {
		t.Errorf("removed at %d, want 7", rev)
	}
}
