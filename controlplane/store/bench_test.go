package store

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/podsnap/podsnap/api"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

func benchStore(b *testing.B) *Store {
	b.Helper()
	e := &server{place: place{b, shortDir(b)}}
	e.start()
	b.Cleanup(e.stop)
	s := e.open(Config{})
	prepare(b, s)
	return s
}

// benchPod has about the size of a function's pod.
func benchPod(name string) *corev1.Pod {
	limits := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: name, Labels: map[string]string{api.LabelFunction: "resize", api.LabelPodTemplateHash: "5d4f8c7b9"},
			Annotations:     map[string]string{api.AnnotationDrain: "true", api.AnnotationConcurrency: "100"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "resize-5d4f8c7b9", UID: "0b3f"}},
		},
		Spec: corev1.PodSpec{NodeName: "node-a", Containers: []corev1.Container{{
			Name: "resize", Image: "functions/resize:latest", Resources: corev1.ResourceRequirements{Limits: limits, Requests: limits},
			Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
		}}},
	}
	for i := range 8 {
		p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprint("VARIABLE_", i), Value: "some value of it"})
	}
	return p
}

func BenchmarkCreate(b *testing.B) {
	s := benchStore(b)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		mustCreate(b, s, benchPod(fmt.Sprint("p", i)))
	}
}

func BenchmarkCreateParallel(b *testing.B) {
	s := benchStore(b)
	var i atomic.Int64
	b.SetParallelism(8)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mustCreate(b, s, benchPod(fmt.Sprint("p", i.Add(1))))
		}
	})
}

func BenchmarkUpdateStatus(b *testing.B) {
	s := benchStore(b)
	p := mustCreate(b, s, benchPod("p")).(*corev1.Pod)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		next := p.DeepCopy()
		next.Status.PodIP = fmt.Sprint("10.0.0.", i)
		got, err := s.Update(b.Context(), next, api.UpdateOptions{Subresource: "status"})
		if err != nil {
			b.Fatal(err)
		}
		p = got.(*corev1.Pod)
	}
}

// BenchmarkCreateWatched has 100 nodes that watch their own pods and 20
// watches of everything.
func BenchmarkCreateWatched(b *testing.B) {
	s := benchStore(b)
	for i := range 120 {
		o := api.WatchOptions{}
		if i < 100 {
			o.Fields = fields.OneTermEqualSelector("spec.nodeName", fmt.Sprint("node-", i))
		}
		w, err := s.Watch(b.Context(), api.Pods, o)
		if err != nil {
			b.Fatal(err)
		}
		defer w.Stop()
		go func() {
			for range w.Events() {
			}
		}()
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		p := benchPod(fmt.Sprint("p", i))
		p.Spec.NodeName = fmt.Sprint("node-", i%100)
		mustCreate(b, s, p)
	}
}

func BenchmarkRead(b *testing.B) {
	s := benchStore(b)
	for i := range 1000 {
		mustCreate(b, s, benchPod(fmt.Sprint("p", i)))
	}
	b.Run("Get", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.Get(b.Context(), api.Pods, "a", "p500"); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, o := range map[string]api.ListOptions{
		"List1000":       {},
		"List1000ByNode": {Fields: fields.OneTermEqualSelector("spec.nodeName", "none")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.List(b.Context(), api.Pods, o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
