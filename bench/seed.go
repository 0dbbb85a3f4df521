package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/api/rules"
	"github.com/podsnap/podsnap/controlplane/store"
	"github.com/podsnap/podsnap/functions"
	"github.com/podsnap/podsnap/internal/daemon/embedded"
	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// registeredName is what a function is called that nobody calls. All names are of
// the same length.
func registeredName(i int) string { return fmt.Sprintf("reg-%06d", i) }

// seed stores the functions from..to in the platform, which does not run, as if they
// had been deployed long ago like the first one, which was: what there is of that
// one is there of each. Over the API it would take ten times as long.
func (b *bench) seed(from, to int) {
	defer b.scope()()
	cli := b.storeOf(filepath.Join(b.platform().StateDir, "store"))
	t, err := templateOf(b.ctx, cli, registeredName(0))
	b.must(err)
	// Each goes into a transaction of its own: a log of a few large ones would be
	// read from its beginning at the next start, which one that has grown is not.
	const wide = 64
	b.must(together(wide, func(w int) error {
		for i := from + w; i < to; i += wide {
			if _, err := cli.Txn(b.ctx).Then(t.make(registeredName(i))...).Commit(); err != nil {
				return err
			}
		}
		return nil
	}))
}

// storeOf is a client of an etcd in this process, with the data of dir.
func (b *bench) storeOf(dir string) *clientv3.Client {
	run, err := os.MkdirTemp("", "pss")
	b.must(err)
	b.Cleanup(func() { os.RemoveAll(run) })
	socket := filepath.Join(run, "etcd.sock")
	ctx, cancel := context.WithCancel(b.ctx)
	ready, end := make(chan struct{}), make(chan error, 1)
	go func() {
		c := embedded.Config{Dir: dir, Socket: socket, NoNATS: true, Log: slog.New(slog.DiscardHandler)}
		end <- embedded.Run(ctx, c, func() { close(ready) })
	}()
	b.Cleanup(func() { cancel(); b.must(<-end) })
	select {
	case <-ready:
	case err := <-end:
		end <- err
		b.Fatalf("embedded etcd: %v", err)
	}
	cli, err := store.Dial([]string{embedded.EtcdEndpoint(socket)}, nil, nil)
	b.must(err)
	b.Cleanup(func() { cli.Close() })
	return cli
}

// template is what there is of a function at zero replicas, as it is stored.
type template struct {
	name     string
	function *api.Function
	kvs      [][2]string
	uids     []string  // the function's first
	plans    [2]string // of the Deployment and the Service
}

func templateOf(ctx context.Context, cli *clientv3.Client, name string) (*template, error) {
	t := &template{name: name}
	for _, r := range []*api.Resource{api.Functions, api.Deployments, api.ReplicaSets, api.Services, api.Endpoints, api.EndpointSlices} {
		resp, err := cli.Get(ctx, "/registry/"+cmp.Or(r.Group, "core")+"/"+r.Plural+"/"+api.FunctionNamespace+"/"+name, clientv3.WithPrefix())
		if err != nil {
			return nil, err
		}
		if len(resp.Kvs) != 1 {
			return nil, fmt.Errorf("of %s there are %d %s, not one", name, len(resp.Kvs), r)
		}
		obj, err := rules.Restore(r, resp.Kvs[0].Value)
		if err != nil {
			return nil, err
		}
		switch r {
		case api.Functions:
			t.function = obj.(*api.Function)
		case api.Deployments:
			t.plans[0] = obj.GetAnnotations()[functions.AnnotationPlan]
		case api.Services:
			t.plans[1] = obj.GetAnnotations()[functions.AnnotationPlan]
		}
		t.kvs = append(t.kvs, [2]string{string(resp.Kvs[0].Key), string(resp.Kvs[0].Value)})
		t.uids = append(t.uids, string(obj.GetUID()))
	}
	if t.plans[0] == "" || t.plans[1] == "" {
		return nil, errors.New("the function's objects are not marked with their plans")
	}
	return t, nil
}

// make is the writes that make a function.
func (t *template) make(name string) []clientv3.Op {
	change := []string{t.name, name}
	f := t.function.DeepCopy()
	f.Name, f.Spec.Name = name, name
	for i, old := range t.uids {
		uid := uuid.NewUUID()
		if i == 0 {
			f.UID = uid
		}
		change = append(change, old, string(uid))
	}
	d, s := functions.Plan(f)
	change = append(change, t.plans[0], d.Annotations[functions.AnnotationPlan], t.plans[1], s.Annotations[functions.AnnotationPlan])
	replace := strings.NewReplacer(change...)
	ops := make([]clientv3.Op, 0, len(t.kvs))
	for _, kv := range t.kvs {
		ops = append(ops, clientv3.OpPut(replace.Replace(kv[0]), replace.Replace(kv[1])))
	}
	return ops
}
