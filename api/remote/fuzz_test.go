package remote

import (
	"testing"

	"github.com/podsnap/podsnap/api"
)

// FuzzEvent: whatever a server sends as an event is one of an object, or an error.
func FuzzEvent(f *testing.F) {
	for i, s := range []string{
		`{"type":"ADDED","object":{"metadata":{"name":"x","resourceVersion":"7"}}}`, `{"type":"BOOKMARK","object":{"metadata":{"annotations":{"k8s.io/initial-events-end":"true"}}}}`,
		`{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}`, `{"type":"ERROR","object":null}`, `{"type":"ADDED"}`, `{"type":"DELETED","object":[]}`, `null`, `{`,
	} {
		f.Add(i, []byte(s))
	}
	f.Fuzz(func(t *testing.T, kind int, line []byte) {
		r := api.Resources[uint(kind)%uint(len(api.Resources))]
		e, err := event(r, line)
		if err != nil {
			return
		}
		if e.Object == nil || e.Object.GetObjectKind().GroupVersionKind() != r.GVK() {
			t.Fatalf("%s is %+v", line, e)
		}
	})
}
