// rq-dashboard's templates write values as they are (<%= %>); here both ways of writing escape them.
"use strict";
_.templateSettings = {
  evaluate: /<%([\s\S]+?)%>/g,
  interpolate: /<%=(?!)([\s\S]+?)%>/g, // matches nothing
  escape: /<%[-=]([\s\S]+?)%>/g,
};
