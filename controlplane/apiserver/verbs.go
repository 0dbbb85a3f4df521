package apiserver

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/podsnap/podsnap/api"
	"github.com/podsnap/podsnap/controlplane/access"
)

func (s *Server) get(c *call) error {
	if c.subresource == "" && flag(c.r.URL.Query(), "watch") {
		return s.watch(c)
	}
	obj, err := s.cfg.Objects.Get(c.ctx(), c.resource, c.namespace, c.name)
	if err != nil {
		return err
	}
	c.warn(nil)
	if c.view != nil {
		obj = c.view.Show(obj)
	}
	return s.answer(c, http.StatusOK, obj)
}

// answer writes one object in the form that the client prefers.
func (s *Server) answer(c *call, code int, obj api.Object) error {
	f, err := s.codec.accept(c.r, hasProtobuf(c.resource), asTable, asPartial)
	if err != nil {
		return err
	}
	switch f.as {
	case asTable:
		t, err := newTable(c, []api.Object{obj})
		if err != nil {
			return err
		}
		t.ResourceVersion = obj.GetResourceVersion()
		writeJSON(c.w, code, t)
		return nil
	case asPartial:
		return s.codec.write(c.w, f, code, partial(obj))
	}
	return s.codec.write(c.w, f, code, c.shown(obj))
}

func hasProtobuf(r *api.Resource) bool { return r.Group != api.FunctionGroup && r.Definition == nil }

func (s *Server) list(c *call) error {
	q := c.r.URL.Query()
	if flag(q, "watch") {
		return s.watch(c)
	}
	o, err := listOptions(c, q)
	if err != nil {
		return err
	}
	texts := s.shared(c)
	f, err := s.codec.accept(c.r, hasProtobuf(c.resource), asTable, asPartialList)
	if err != nil {
		return err
	}
	if q.Has("sendInitialEvents") {
		return invalidList("sendInitialEvents", "sendInitialEvents is forbidden for list")
	}
	l, err := s.cfg.Objects.List(c.ctx(), c.resource, o)
	if err != nil {
		return err
	}
	c.warn(nil)
	if c.view != nil && (texts == nil || f.media != runtime.ContentTypeJSON || f.as != "") {
		texts = nil
		l.Items = slices.Clone(l.Items)
		for i, o := range l.Items {
			l.Items[i] = c.view.Show(o)
		}
	}
	if q.Get("resourceVersionMatch") == string(metav1.ResourceVersionMatchExact) && q.Get("resourceVersion") != l.ResourceVersion {
		return apierrors.NewResourceExpired("the requested resourceVersion is not the newest: only that one can be listed exactly")
	}
	return s.answerList(c, f, l, texts)
}

// shared are the texts of objects for a list or watch that many ask for: nil where
// each asks for what is its own.
func (s *Server) shared(c *call) *texts {
	if access.Of(c.ctx()).Node() == "" || c.resource == api.Pods && c.view == nil {
		return nil
	}
	return s.texts
}

func (s *Server) answerList(c *call, f form, l api.List, shared *texts) error {
	m := metav1.ListMeta{ResourceVersion: l.ResourceVersion, Continue: l.Continue}
	if l.Continue != "" && l.Remaining > 0 {
		m.RemainingItemCount = &l.Remaining
	}
	switch f.as {
	case asTable:
		t, err := newTable(c, l.Items)
		if err != nil {
			return err
		}
		t.ListMeta = m
		writeJSON(c.w, http.StatusOK, t)
		return nil
	case asPartialList:
		return s.codec.write(c.w, f, http.StatusOK, partialList(m, l.Items))
	}
	if f.media == runtime.ContentTypeJSON {
		return writeList(c, m, l.Items, shared)
	}
	out := c.wire().NewList()
	items := make([]runtime.Object, len(l.Items))
	for i, it := range l.Items {
		items[i] = it
		if c.version != nil {
			items[i] = c.shown(it)
		}
	}
	if err := meta.SetList(out, items); err != nil {
		return fmt.Errorf("list %s: %w", c.resource, err)
	}
	gvk := c.wire().GVK()
	gvk.Kind = listKind(c.resource)
	out.GetObjectKind().SetGroupVersionKind(gvk)
	acc, err := meta.ListAccessor(out)
	if err != nil {
		return fmt.Errorf("list %s: %w", c.resource, err)
	}
	acc.SetResourceVersion(m.ResourceVersion)
	acc.SetContinue(m.Continue)
	acc.SetRemainingItemCount(m.RemainingItemCount)
	return s.codec.write(c.w, f, http.StatusOK, out)
}

// writeList writes a list object by object, so that no second copy of all of
// them is made; where it takes their texts from, shared has them trimmed.
func writeList(c *call, m metav1.ListMeta, items []api.Object, shared *texts) error {
	mb, err := json.Marshal(m)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	c.w.WriteHeader(http.StatusOK)
	b := bufio.NewWriterSize(c.w, 32<<10)
	fmt.Fprintf(b, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, listKind(c.resource), c.wire().GVK().GroupVersion().String(), mb)
	for i, it := range items {
		if i > 0 {
			b.WriteByte(',')
		}
		var o []byte
		if shared != nil {
			o, err = shared.of(it, c.view)
		} else {
			o, err = json.Marshal(c.shown(it))
		}
		if err != nil {
			return fmt.Errorf("encode %s %s/%s: %w", c.resource, it.GetNamespace(), it.GetName(), err)
		}
		b.Write(o)
	}
	b.WriteString("]}\n")
	return b.Flush()
}

func listOptions(c *call, q url.Values) (api.ListOptions, error) {
	o := api.ListOptions{Namespace: c.namespace, Continue: q.Get("continue")}
	var err error
	if o.Labels, o.Fields, err = c.selectors(q); err != nil {
		return o, err
	}
	if v := q.Get("limit"); v != "" {
		if o.Limit, err = strconv.ParseInt(v, 10, 64); err != nil || o.Limit < 0 {
			return o, apierrors.NewBadRequest(fmt.Sprintf("limit: %q is not a number of objects", v))
		}
	}
	return o, nil
}

func (c *call) selectors(q url.Values) (labels.Selector, fields.Selector, error) {
	l, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		return nil, nil, apierrors.NewBadRequest("labelSelector: " + err.Error())
	}
	f, err := fields.ParseSelector(q.Get("fieldSelector"))
	if err != nil {
		return nil, nil, apierrors.NewBadRequest("fieldSelector: " + err.Error())
	}
	known := api.FieldSet(c.resource.New())
	f, err = f.Transform(func(name, value string) (string, string, error) {
		stored := name
		if c.version != nil && c.version.field != nil {
			stored = c.version.field(name)
		}
		if _, ok := known[stored]; !ok {
			return "", "", apierrors.NewBadRequest(fmt.Sprintf("fieldSelector: field label %q is not supported for %s", name, c.wire()))
		}
		return stored, value, nil
	})
	return l, f, err
}

func (s *Server) create(c *call) error {
	objects, err := s.target(c)
	if err != nil {
		return err
	}
	obj, err := s.body(c)
	if err != nil {
		return err
	}
	out, err := objects.Create(c.ctx(), obj)
	for range maxNames - 1 {
		if obj.GetName() != "" || !apierrors.IsAlreadyExists(err) {
			break
		}
		out, err = objects.Create(c.ctx(), obj) // the name that was made up is taken
	}
	if err != nil {
		return err
	}
	c.warn(out)
	return s.answer(c, http.StatusCreated, out)
}

// maxNames is how many names are tried for an object that leaves its end open.
const maxNames = 8

func (s *Server) update(c *call) error {
	objects, err := s.target(c)
	if err != nil {
		return err
	}
	obj, err := s.body(c)
	if err != nil {
		return err
	}
	out, err := objects.Update(c.ctx(), obj, api.UpdateOptions{Subresource: c.subresource})
	if err != nil {
		return err
	}
	c.warn(out)
	return s.answer(c, http.StatusOK, out)
}

// place gives obj the namespace and name of the URL; others are an error.
func (c *call) place(obj metav1.Object) error {
	switch ns := obj.GetNamespace(); ns {
	case "", c.namespace:
		obj.SetNamespace(c.namespace)
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace of the URL (%s)", ns, c.namespace))
	}
	switch name := obj.GetName(); {
	case c.name == "" || name == c.name:
	case name == "":
		obj.SetName(c.name)
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, c.name))
	}
	return nil
}

func (s *Server) delete(c *call) error {
	o, dry, err := s.deleteOptions(c)
	if err != nil {
		return err
	}
	objects, err := s.writes(c, dry)
	if err != nil {
		return err
	}
	obj, err := objects.Delete(c.ctx(), c.resource, c.namespace, c.name, o)
	if err != nil {
		return err
	}
	return s.answer(c, http.StatusOK, obj)
}

// deleteOptions reads them from the body or else from the query.
func (s *Server) deleteOptions(c *call) (o api.DeleteOptions, dry bool, err error) {
	var d metav1.DeleteOptions
	if c.r.ContentLength != 0 {
		if err := s.readOptions(c, &d); err != nil {
			return o, false, err
		}
	}
	q := c.r.URL.Query()
	if v := q.Get("gracePeriodSeconds"); v != "" && d.GracePeriodSeconds == nil {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return o, false, apierrors.NewBadRequest(fmt.Sprintf("gracePeriodSeconds: %q is not a number of seconds", v))
		}
		d.GracePeriodSeconds = &n
	}
	if v := q.Get("propagationPolicy"); v != "" && d.PropagationPolicy == nil {
		d.PropagationPolicy = new(metav1.DeletionPropagation(v))
	}
	if d.DryRun == nil {
		d.DryRun = q["dryRun"]
	}
	if dry, err = isDry(d.DryRun); err != nil {
		return o, false, err
	}
	o, err = toDelete(&d)
	return o, dry, err
}

func (s *Server) readOptions(c *call, d *metav1.DeleteOptions) error {
	info, err := s.codec.bodyType(c.r)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(c.r.Body)
	if err != nil {
		return fmt.Errorf("read the body: %w", err)
	}
	if len(body) == 0 {
		return nil
	}
	if c.resource.Definition != nil {
		return readCustomOptions(body, d)
	}
	// Clients send the options as of the resource's own group or as of v1.
	gvk := c.resource.GVK().GroupVersion().WithKind("DeleteOptions")
	if _, _, err := info.Serializer.Decode(body, &gvk, d); err != nil {
		return apierrors.NewBadRequest("the body cannot be handled as DeleteOptions: " + err.Error())
	}
	return nil
}

func toDelete(d *metav1.DeleteOptions) (api.DeleteOptions, error) {
	o := api.DeleteOptions{GracePeriodSeconds: d.GracePeriodSeconds}
	if d.GracePeriodSeconds != nil && *d.GracePeriodSeconds < 0 {
		return o, apierrors.NewBadRequest("gracePeriodSeconds must not be negative")
	}
	if p := d.Preconditions; p != nil {
		if p.UID != nil {
			o.UID = *p.UID
		}
		if p.ResourceVersion != nil {
			o.ResourceVersion = *p.ResourceVersion
		}
	}
	if d.PropagationPolicy != nil {
		if d.OrphanDependents != nil { //nolint:staticcheck // see below
			return o, apierrors.NewBadRequest("orphanDependents and propagationPolicy cannot be both set")
		}
		switch *d.PropagationPolicy {
		case metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan:
			o.Propagation = *d.PropagationPolicy
		default:
			return o, apierrors.NewBadRequest(fmt.Sprintf("propagationPolicy %q is unknown: it must be Background, Foreground or Orphan", *d.PropagationPolicy))
		}
	} else if d.OrphanDependents != nil && *d.OrphanDependents { //nolint:staticcheck // old clients still say it so
		o.Propagation = metav1.DeletePropagationOrphan
	}
	return o, nil
}

func (s *Server) deleteCollection(c *call) error {
	lo, err := listOptions(c, c.r.URL.Query())
	if err != nil {
		return err
	}
	do, dry, err := s.deleteOptions(c)
	if err != nil {
		return err
	}
	objects, err := s.writes(c, dry)
	if err != nil {
		return err
	}
	l, err := s.cfg.Objects.List(c.ctx(), c.resource, lo)
	if err != nil {
		return err
	}
	gone := l.Items[:0:0]
	for _, it := range l.Items {
		obj, err := objects.Delete(c.ctx(), c.resource, it.GetNamespace(), it.GetName(), do)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		gone = append(gone, obj)
	}
	return s.answerList(c, form{media: runtime.ContentTypeJSON}, api.List{Items: gone, ResourceVersion: l.ResourceVersion}, nil)
}
