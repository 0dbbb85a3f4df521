package apiserver

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/podsnap/podsnap/api"
)

// regardingEvents are Events as new programs write them.
var regardingEvents = &otherVersion{
	Resource: &api.Resource{
		Group: eventsv1.GroupName, Version: "v1", Kind: api.Events.Kind, Plural: api.Events.Plural, Singular: api.Events.Singular, Short: api.Events.Short, Namespaced: true,
		New: func() api.Object { return &eventsv1.Event{} }, NewList: func() runtime.Object { return &eventsv1.EventList{} },
	},
	stored: api.Events, show: showEvent, take: takeEvent, field: eventField,
}

func showEvent(stored api.Object) api.Object {
	e := stored.(*corev1.Event)
	out := &eventsv1.Event{
		ObjectMeta: e.ObjectMeta, EventTime: e.EventTime, Action: e.Action, Reason: e.Reason, Type: e.Type,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
		Regarding: e.InvolvedObject, Related: e.Related, Note: e.Message,
		DeprecatedSource: e.Source, DeprecatedFirstTimestamp: e.FirstTimestamp, DeprecatedLastTimestamp: e.LastTimestamp, DeprecatedCount: e.Count,
	}
	if e.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out
}

func takeEvent(shown api.Object) api.Object {
	e := shown.(*eventsv1.Event)
	out := &corev1.Event{
		ObjectMeta: e.ObjectMeta, EventTime: e.EventTime, Action: e.Action, Reason: e.Reason, Type: e.Type,
		ReportingController: e.ReportingController, ReportingInstance: e.ReportingInstance,
		InvolvedObject: e.Regarding, Related: e.Related, Message: e.Note,
		Source: e.DeprecatedSource, FirstTimestamp: e.DeprecatedFirstTimestamp, LastTimestamp: e.DeprecatedLastTimestamp, Count: e.DeprecatedCount,
	}
	if e.Series != nil {
		out.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out
}

// eventField is the stored kind's name of a field that is selected by; "" is none.
func eventField(shown string) string {
	if shown == "reportingController" {
		return "reportingComponent"
	}
	if f, ok := strings.CutPrefix(shown, "regarding."); ok {
		return "involvedObject." + f
	}
	if shown == "reportingComponent" || strings.HasPrefix(shown, "involvedObject.") {
		return ""
	}
	return shown
}
