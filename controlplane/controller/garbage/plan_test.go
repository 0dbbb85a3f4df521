package garbage

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestDecide(t *testing.T) {
	refs := []metav1.OwnerReference{{UID: "a"}, {UID: "b"}}
	for name, tt := range map[string]struct {
		owners   []standing
		blocking bool
		want     verdict
	}{
		"both there":                     {[]standing{present, present}, false, verdict{}},
		"one gone":                       {[]standing{present, absent}, false, verdict{drop: []types.UID{"b"}}},
		"one waits, the other keeps it":  {[]standing{waiting, present}, true, verdict{drop: []types.UID{"a"}}},
		"both gone":                      {[]standing{absent, absent}, false, verdict{remove: true, propagation: metav1.DeletePropagationBackground}},
		"gone and waiting":               {[]standing{absent, waiting}, false, verdict{remove: true, propagation: metav1.DeletePropagationBackground}},
		"waiting, with dependents first": {[]standing{absent, waiting}, true, verdict{remove: true, propagation: metav1.DeletePropagationForeground}},
		"gone, with dependents after":    {[]standing{absent, absent}, true, verdict{remove: true, propagation: metav1.DeletePropagationBackground}},
	} {
		t.Run(name, func(t *testing.T) {
			got := decide(refs, tt.owners, tt.blocking)
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(verdict{})); diff != "" {
				t.Errorf("verdict (-want +got):\n%s", diff)
			}
		})
	}
}
