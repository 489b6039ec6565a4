"""What is requested of the recommender, for whom, and within which limits.

The options of the command, the query parameters of the API and the configuration of the asset are made from
`RecommendationParameters`, so that bounds, defaults and descriptions are written once.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

DEFAULT_COUNT = 20
"""Recommendations in a list unless a number is given."""

MAX_COUNT = 1000
"""Recommendations in one list."""

MAX_COUNT_PER_PAGE = 100
"""Recommendations in one response of the API."""

MAX_PAGED_RECOMMENDATIONS = 500
"""Recommendations that paging reaches."""

MAX_STARS = 10**9
"""Largest star count that a filter accepts."""

Archived = Literal["no", "yes", "only"]

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)]


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which repositories may be recommended.

    Attributes
    ----------
    own : bool
        Include repositories that the user owns.
    forks : bool
        Include forks of starred repositories, and the repositories that starred forks come from.
    archived : {"no", "yes", "only"}
        Whether archived repositories are excluded, included, or the only ones.
    language : str
        Main language (case-insensitive); empty: any.
    topics : tuple of str
        Topics that a repository must all have (case-insensitive).
    owner : str
        Owner (case-insensitive); empty: any.
    min_stars, max_stars : int or None
        Bounds of GitHub's star count; repositories without a count pass neither.
    """

    own: bool = False
    forks: bool = False
    archived: Archived = "no"
    language: str = ""
    topics: tuple[str, ...] = ()
    owner: str = ""
    min_stars: int | None = None
    max_stars: int | None = None

    @property
    def accepts_unknown(self) -> bool:
        """Whether a repository without metadata passes."""
        unlimited = self.min_stars is None and self.max_stars is None
        return unlimited and self.archived != "only" and not (self.language or self.topics or self.owner)


DEFAULT_FILTERS = Filters()


@dataclass(frozen=True, kw_only=True)
class RecommendationRequest:
    """What is requested, and for whom.

    Attributes
    ----------
    stars : sequence of int
        Ids of the repositories that the user starred; they are never recommended.
    login : str or None
        Owner whose repositories count as the user's own.
    n : int
        Number of recommendations.
    filters : Filters
    hidden : collection of int
        Ids of further repositories to exclude.
    shown : collection of int
        Ids on earlier pages; the list continues after them.
    popularity : float
        Weight of the popularity z-score, -1 to 1; see `ranking.POPULARITY_WEIGHT`. 0 keeps the model's order; negative
        values favour little-known repositories.
    diversity : float or None
        Penalty for similarity to higher-ranked results, 0 to 1 (maximal marginal relevance). None: no penalty, or
        `ranking.POPULAR_DIVERSITY` for a user without known stars.
    new : bool
        Whether repositories that the model does not know are listed as well.
    title : str
        Description of the user, for people.
    known_stars : int
        Number of the user's stars that are known.
    used_stars : int
        Number of those that contribute to the scores.
    warnings : sequence of str
        Messages to show with the list.
    """

    stars: Sequence[int] = ()
    login: str | None = None
    n: int = DEFAULT_COUNT
    filters: Filters = DEFAULT_FILTERS
    hidden: Collection[int] = ()
    shown: Collection[int] = ()
    popularity: float = 0.0
    diversity: float | None = None
    new: bool = True
    title: str = ""
    known_stars: int = 0
    used_stars: int = 0
    warnings: Sequence[str] = ()


DEFAULT_REQUEST = RecommendationRequest()


class RecommendationParameters(BaseModel):
    """Parameters that a user can choose, with their bounds and descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)  # the command loads it for its help

    n: Annotated[int, Field(ge=1, le=MAX_COUNT, description="Number of recommendations.")] = DEFAULT_COUNT
    language: Annotated[Text, Field(description="Only repositories with this main language (case-insensitive).")] = ""
    topic: Annotated[
        tuple[Text, ...],
        Field(max_length=10, description="Only repositories with this topic. Repeatable: all topics must match."),
    ] = ()
    owner: Annotated[Text, Field(description="Only repositories of this owner.")] = ""
    min_stars: Annotated[
        int | None, Field(ge=0, le=MAX_STARS, description="Only repositories with at least this many stars on GitHub.")
    ] = None
    max_stars: Annotated[
        int | None, Field(ge=0, le=MAX_STARS, description="Only repositories with at most this many stars on GitHub.")
    ] = None
    archived: Annotated[
        Archived, Field(description="Whether archived repositories are excluded, included, or the only ones shown.")
    ] = "no"
    own: Annotated[bool, Field(description="Include the user's own repositories.")] = False
    forks: Annotated[bool, Field(description="Include forks of starred repositories, and what they are forks of.")] = (
        False
    )
    popularity: Annotated[
        float,
        Field(
            ge=-1,
            le=1,
            allow_inf_nan=False,
            description="Negative values favour little-known repositories, positive values popular ones (-1 to 1).",
        ),
    ] = 0.0
    diversity: Annotated[
        float | None,
        Field(ge=0, le=1, allow_inf_nan=False, description="Penalty for similarity to higher-ranked results (0 to 1)."),
    ] = None

    def filters(self) -> Filters:
        chosen = self.model_dump(include={field.name for field in fields(Filters)})
        return Filters(**chosen, topics=tuple(filter(None, self.topic)))

    def request(self, *, hidden: Collection[int] = (), shown: Collection[int] = ()) -> RecommendationRequest:
        """Return the request, without a user yet.

        Parameters
        ----------
        hidden, shown : collection of int
            See `RecommendationRequest`.
        """
        controls = self.model_dump(include={"n", "popularity", "diversity"})
        return RecommendationRequest(filters=self.filters(), hidden=hidden, shown=shown, **controls)
