package soft_test

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/remote"
	"github.com/podsnap/podsnap/controlplane/admission"
	"github.com/podsnap/podsnap/controlplane/apiserver"
	"github.com/podsnap/podsnap/controlplane/soft"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkRenewal is one sign of life of a node: by a seam in this process, and
// by HTTP, as of another machine.
func BenchmarkRenewal(b *testing.B) {
	s, _ := open(b, soft.Config{
		Durable: durable(b, etcd(b), ""), Kinds: soft.ReplicaKinds(), Soft: soft.Replicas, Passing: soft.IsRenewal, Admit: admission.Admit, History: 4096,
	})
	create(b, s, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: api.SystemNamespace}})
	server, err := apiserver.New(apiserver.Config{Objects: s})
	if err != nil {
		b.Fatal(err)
	}
	h := httptest.NewServer(server)
	b.Cleanup(h.Close)
	for name, o := range map[string]api.Objects{"here": s, "http": remote.NewObjects(remote.Config{URL: h.URL, Client: h.Client()})} {
		b.Run(name, func(b *testing.B) {
			holder, seconds := "node-"+name, int32(40)
			l, err := api.Create(b.Context(), o, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Namespace: api.SystemNamespace, Name: holder},
				Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds},
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				now := metav1.NewMicroTime(time.Now())
				next := *l
				next.Spec.RenewTime = &now
				if l, err = api.Update(b.Context(), o, &next, api.UpdateOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			if _, err := s.Delete(b.Context(), api.Leases, api.SystemNamespace, holder, api.DeleteOptions{}); err != nil {
				b.Fatal(err)
			}
		})
	}
}
