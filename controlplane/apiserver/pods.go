package apiserver

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/disruption"
)

// bindings are the kinds that only a subresource of pods takes.
func bindings() []runtime.Object { return []runtime.Object{&corev1.Binding{}} }

// bind puts a pod on a node, once.
func (s *Server) bind(c *call) error {
	dry, err := isDry(c.r.URL.Query()["dryRun"])
	if err != nil {
		return err
	}
	b := &corev1.Binding{}
	if err := s.codec.read(c.w, c.r, corev1.SchemeGroupVersion.WithKind("Binding"), b); err != nil {
		return err
	}
	if err := c.place(b); err != nil {
		return err
	}
	if b.Target.Name == "" || b.Target.Kind != "" && b.Target.Kind != "Node" {
		return apierrors.NewBadRequest("target must name a Node")
	}
	_, err = api.Mutate(c.ctx(), s.store(dry), c.resource, c.namespace, c.name, api.UpdateOptions{}, func(p *corev1.Pod) (bool, error) {
		switch {
		case p.DeletionTimestamp != nil:
			return false, apierrors.NewConflict(c.resource.GR(), p.Name, fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", p.Name))
		case p.Spec.NodeName != "":
			return false, apierrors.NewConflict(c.resource.GR(), p.Name, fmt.Errorf("pod %s is already assigned to node %q", p.Name, p.Spec.NodeName))
		case b.UID != "" && b.UID != p.UID:
			return false, apierrors.NewConflict(c.resource.GR(), p.Name, fmt.Errorf("the uid in the binding is %s, the pod's is %s", b.UID, p.UID))
		}
		p.Spec.NodeName = b.Target.Name
		return true, nil
	})
	if err != nil {
		return err
	}
	writeJSON(c.w, http.StatusCreated, success(http.StatusCreated))
	return nil
}

// evict deletes a pod on behalf of those who empty a node, if the pod's disruption
// budget allows it.
func (s *Server) evict(c *call) error {
	e := &policyv1.Eviction{}
	if err := s.codec.read(c.w, c.r, policyv1.SchemeGroupVersion.WithKind("Eviction"), e); err != nil {
		return err
	}
	if err := c.place(e); err != nil {
		return err
	}
	if e.DeleteOptions == nil {
		e.DeleteOptions = &metav1.DeleteOptions{}
	}
	o, err := toDelete(e.DeleteOptions)
	if err != nil {
		return err
	}
	dry, err := isDry(append(c.r.URL.Query()["dryRun"], e.DeleteOptions.DryRun...))
	if err != nil {
		return err
	}
	objects := s.store(dry)
	pod, err := api.Get[*corev1.Pod](c.ctx(), s.cfg.Objects, c.resource, c.namespace, c.name)
	if err != nil {
		return err
	}
	if o.UID != "" && o.UID != pod.UID {
		return apierrors.NewConflict(c.resource.GR(), c.name, fmt.Errorf("the UID in the precondition is %s, the pod's is %s", o.UID, pod.UID))
	}
	if err := disruption.Grant(c.ctx(), objects, pod); err != nil {
		return err
	}
	if o.UID == "" {
		o.UID = pod.UID // for which it was granted
	}
	if err := disruption.Mark(c.ctx(), objects, pod, false, disruption.ByEviction, "Eviction API: evicting"); err != nil {
		return err
	}
	if _, err := objects.Delete(c.ctx(), c.resource, c.namespace, c.name, o); err != nil {
		return err
	}
	writeJSON(c.w, http.StatusCreated, success(http.StatusCreated))
	return nil
}

func success(code int32) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess, Code: code,
	}
}

// podLog hands a container's log through from the pod's node.
func (s *Server) podLog(c *call) error {
	o, limit, err := logOptions(c.r.URL.Query(), time.Now())
	if err != nil {
		return err
	}
	p, err := api.Get[*corev1.Pod](c.ctx(), s.cfg.Objects, c.resource, c.namespace, c.name)
	if err != nil {
		return err
	}
	if o.Container, err = container(p, o.Container); err != nil {
		return err
	}
	if p.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned: it has no log yet (kubectl describe pod %s says why)", p.Name, p.Name))
	}
	if s.cfg.Agents == nil {
		return apierrors.NewServiceUnavailable("this server reaches no node: logs are not available here")
	}
	agent, err := s.cfg.Agents(c.ctx(), p.Spec.NodeName)
	if err != nil {
		return err
	}
	log, err := agent.Logs(c.ctx(), p.UID, o)
	if err != nil {
		return err
	}
	defer log.Close()
	c.w.Header().Set("Content-Type", "text/plain")
	c.w.WriteHeader(http.StatusOK)
	var from io.Reader = log
	if limit > 0 {
		from = io.LimitReader(log, limit)
	}
	return copyFlushed(c.w, from)
}

// copyFlushed hands each read on at once. A reader's fault cuts the answer.
func copyFlushed(w http.ResponseWriter, from io.Reader) error {
	conn := http.NewResponseController(w)
	if err := conn.Flush(); err != nil {
		return nil //nolint:nilerr // the client has gone
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			_ = conn.SetWriteDeadline(time.Now().Add(writeTimeout)) // best effort: see eventWriter.send
			if _, err := w.Write(buf[:n]); err != nil {
				return nil //nolint:nilerr // the client has gone
			}
			if err := conn.Flush(); err != nil {
				return nil //nolint:nilerr // the client has gone
			}
			_ = conn.SetWriteDeadline(time.Time{}) // see eventWriter.run
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the log: %w", err)
		}
	}
}

// container is the one that is meant; it must be the pod's.
func container(p *corev1.Pod, name string) (string, error) {
	var names []string
	for _, list := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			names = append(names, list[i].Name)
		}
	}
	if name == "" && len(names) != 1 || !slices.Contains(names, name) {
		for i := range p.Spec.EphemeralContainers {
			names = append(names, p.Spec.EphemeralContainers[i].Name)
		}
	}
	switch {
	case name == "" && len(names) == 1:
		return names[0], nil
	case name == "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", p.Name, list(names)))
	case !slices.Contains(names, name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s, choose one of: %s", name, p.Name, list(names)))
	}
	return name, nil
}

// logOptions reads the query; limit is in bytes, 0 is none.
func logOptions(q url.Values, now time.Time) (o api.LogOptions, limit int64, err error) {
	o = api.LogOptions{
		Container: q.Get("container"), Tail: -1,
		Follow: flag(q, "follow"), Previous: flag(q, "previous"), Timestamps: flag(q, "timestamps"),
	}
	number := func(key string) (int64, bool) {
		v := q.Get(key)
		if v == "" || err != nil {
			return 0, false
		}
		n, e := strconv.ParseInt(v, 10, 32)
		if e != nil || n < 0 {
			err = apierrors.NewBadRequest(fmt.Sprintf("%s: %q is not a number", key, v))
		}
		return n, e == nil
	}
	if n, ok := number("tailLines"); ok {
		o.Tail = int(n)
	}
	if n, ok := number("sinceSeconds"); ok {
		o.Since = now.Add(-time.Duration(n) * time.Second)
	}
	limit, _ = number("limitBytes")
	if v := q.Get("sinceTime"); v != "" && err == nil {
		if o.Since, err = time.Parse(time.RFC3339, v); err != nil {
			err = apierrors.NewBadRequest(fmt.Sprintf("sinceTime: %q is not a time such as 2026-01-02T15:04:05Z", v))
		}
	}
	return o, limit, err
}
