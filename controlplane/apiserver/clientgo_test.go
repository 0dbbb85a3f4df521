package apiserver

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/memory"
)

// clientConfig is for Kubernetes' own client to speak protobuf with a server.
func clientConfig(t *testing.T) (*rest.Config, *memory.Objects) {
	t.Helper()
	h, o := rig(t)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	gv := corev1.SchemeGroupVersion
	return &rest.Config{
		Host: srv.URL, APIPath: "/api", QPS: -1, DisableCompression: true,
		ContentConfig: rest.ContentConfig{
			GroupVersion: &gv, ContentType: runtime.ContentTypeProtobuf, AcceptContentTypes: runtime.ContentTypeProtobuf,
			NegotiatedSerializer: serializer.NewCodecFactory(api.Scheme()).WithoutConversion(),
		},
	}, o
}

// TestClientGoInProtobuf writes, lists and watches with Kubernetes' own client,
// which takes nothing but protobuf.
func TestClientGoInProtobuf(t *testing.T) {
	cfg, o := clientConfig(t)
	client, err := rest.RESTClientFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	of := func(r *rest.Request) *rest.Request { return r.Namespace("d").Resource("configmaps") }

	opts := func(o *metav1.ListOptions) *metav1.ListOptions { return o }
	param := metav1.ParameterCodec
	w, err := of(client.Get()).VersionedParams(opts(&metav1.ListOptions{Watch: true, AllowWatchBookmarks: true, SendInitialEvents: new(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}), param).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	next := func(want watch.EventType) *corev1.ConfigMap {
		t.Helper()
		for ev := range w.ResultChan() {
			if ev.Type == watch.Bookmark && want != watch.Bookmark {
				continue
			}
			cm, ok := ev.Object.(*corev1.ConfigMap)
			if ev.Type != want || !ok {
				t.Fatalf("got %s of %#v, want %s", ev.Type, ev.Object, want)
			}
			return cm
		}
		t.Fatal("the watch has ended")
		return nil
	}
	if b := next(watch.Bookmark); b.Annotations[metav1.InitialEventsAnnotationKey] != "true" || b.ResourceVersion == "" {
		t.Errorf("the initial state ends with %+v", b)
	}
	made := &corev1.ConfigMap{}
	if err := of(client.Post()).Body(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x-"}, Data: map[string]string{"a": "b"}}).Do(ctx).Into(made); err != nil {
		t.Fatal(err)
	}
	if got := next(watch.Added); got.Name != made.Name || got.Data["a"] != "b" || got.ResourceVersion != made.ResourceVersion {
		t.Errorf("added is %+v, made was %+v", got, made)
	}
	if err := of(client.Patch(types.ApplyYAMLPatchType)).Name(made.Name).Param("fieldManager", "m").
		Body([]byte("{apiVersion: v1, kind: ConfigMap, data: {c: d}}")).Do(ctx).Into(made); err != nil {
		t.Fatal(err)
	}
	if got := next(watch.Modified); len(got.Data) != 2 {
		t.Errorf("modified is %+v", got)
	}
	list := &corev1.ConfigMapList{}
	if err := of(client.Get()).Do(ctx).Into(list); err != nil || len(list.Items) != 1 {
		t.Errorf("the list is %+v, %v", list, err)
	}
	wrong := types.UID("another")
	err = of(client.Delete()).Name(made.Name).Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}).Do(ctx).Error()
	if !apierrors.IsConflict(err) {
		t.Errorf("deleting another object: got %v, want a conflict", err)
	}
	if err := of(client.Delete()).Name(made.Name).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	if got := next(watch.Deleted); got.Name != made.Name {
		t.Errorf("deleted is %+v", got)
	}
	if l, err := o.List(ctx, api.ConfigMaps, api.ListOptions{}); err != nil || len(l.Items) > 0 {
		t.Errorf("left are %v, %v", l.Items, err)
	}
}

// TestReflectorsWatchLists runs what all informers are made of, on metadata alone
// in protobuf: its list is a watch that begins with everything.
func TestReflectorsWatchLists(t *testing.T) {
	cfg, o := clientConfig(t)
	client, err := metadata.NewForConfig(&rest.Config{Host: cfg.Host, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	create(t, o, configMap("first", map[string]string{"a": "b"}))
	at := client.Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace("d")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	seen := make(chan string, 16)
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				t.Error("it has listed")
				return at.List(ctx, o)
			},
			WatchFuncWithContext: at.Watch,
		}, client),
		ObjectType: &metav1.PartialObjectMetadata{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { seen <- "+" + obj.(*metav1.PartialObjectMetadata).Name },
			DeleteFunc: func(obj any) { seen <- "-" + obj.(*metav1.PartialObjectMetadata).Name },
		},
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		informer.RunWithContext(ctx)
	}()
	want := func(what string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != what {
				t.Errorf("seen is %s, want %s", got, what)
			}
		case <-ctx.Done():
			t.Fatalf("%s was not seen", what)
		}
	}
	want("+first")
	create(t, o, configMap("second", nil))
	want("+second")
	if _, err := o.Delete(ctx, api.ConfigMaps, "d", "first", api.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("-first")
	cancel()
	<-done
}
