// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"net/http"
	"slices"

	"github.com/weftmesh/weft/catalog"
	"github.com/weftmesh/weft/internal/api"
	"github.com/weftmesh/weft/internal/gossip"
)

// Coordinates takes the coordinates that nodes send.
type Coordinates interface {
	// Stage takes one to be written soon.
	Stage(c catalog.NodeCoordinate) error
}

// coordinateView is a node's coordinate as Consul shows it.
type coordinateView struct {
	Node      string
	Partition string `json:",omitempty"`
	Segment   string
	Coord     catalog.Coordinate
}

func viewCoordinates(list []*catalog.NodeCoordinate, keep func(*catalog.NodeCoordinate) bool) []coordinateView {
	out := []coordinateView{}
	for _, c := range list {
		if keep(c) {
			v := coordinateView{Node: c.Node, Segment: c.Segment, Coord: c.Coord}
			if c.Partition != catalog.DefaultPartition {
				v.Partition = c.Partition
			}
			out = append(out, v)
		}
	}
	return out
}

func (h *handlers) coordinates(w http.ResponseWriter, r *api.Request) error {
	segment, one := r.URL.Query().Get("segment"), r.URL.Query().Has("segment")
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]coordinateView, error) {
		list, err := t.Coordinates(r.Options.Scope, "")
		return viewCoordinates(list, func(c *catalog.NodeCoordinate) bool {
			return r.Visible(c.Node) && (!one || c.Segment == segment)
		}), err
	})
}

func (h *handlers) nodeCoordinates(w http.ResponseWriter, r *api.Request) error {
	segment, one := r.URL.Query().Get("segment"), r.URL.Query().Has("segment")
	return api.Answer(w, r, h.c.Store, func(t *catalog.Txn) ([]coordinateView, error) {
		list, err := t.Coordinates(r.Options.Scope, r.PathValue("name"))
		out := viewCoordinates(list, func(c *catalog.NodeCoordinate) bool { return !one || c.Segment == segment })
		if err == nil && len(out) == 0 {
			err = &api.StatusError{Code: http.StatusNotFound, Err: catalog.ErrNotFound}
		}
		return out, err
	})
}

func (h *handlers) updateCoordinate(_ http.ResponseWriter, r *api.Request) error {
	var body coordinateView
	if err := api.ReadJSON(r, &body); err != nil {
		return err
	}
	if err := r.Authorize(body.Node); err != nil {
		return err
	}
	scope := r.Options.Scope
	if body.Partition != "" {
		scope.Partition = body.Partition
	}
	return h.c.Coordinates.Stage(catalog.NodeCoordinate{Scope: scope, Node: body.Node, Segment: body.Segment, Coord: body.Coord})
}

// datacenterView is the coordinates of the servers of a datacenter, in the WAN.
type datacenterView struct {
	Datacenter  string
	AreaID      string
	Coordinates []coordinateView
}

func (h *handlers) datacenterCoordinates(w http.ResponseWriter, _ *api.Request) error {
	out := []datacenterView{}
	if h.c.WAN == nil {
		return api.WriteJSON(w, out)
	}
	by := map[string][]coordinateView{}
	for _, m := range h.c.WAN.Members() {
		c, ok := h.c.WAN.CoordinateOf(m.Name)
		if m.Status != gossip.StatusAlive || !ok {
			continue
		}
		by[m.Datacenter] = append(by[m.Datacenter], coordinateView{Node: m.Node, Coord: catalog.Coordinate(c)})
	}
	for dc, list := range by {
		out = append(out, datacenterView{Datacenter: dc, AreaID: "wan", Coordinates: list})
	}
	slices.SortFunc(out, func(a, b datacenterView) int { return cmp.Compare(a.Datacenter, b.Datacenter) })
	return api.WriteJSON(w, out)
}
